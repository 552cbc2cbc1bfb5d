"""The one tree of errors that users see.

    NightrankError                    exit code 1
    ├── SettingsError                 2   job file, cluster.yaml, serve_config.yaml, command line
    ├── DataError                     2   events, items or users that cannot be used
    ├── GateRefused                   3   a gate said no; what is in service stays
    ├── ReleaseError                  1   a release, run or store that cannot be trusted or does not exist
    │   ├── StoreConflict             1   somebody else moved a pointer in between
    │   └── StoreUnreachable          1   an object store that does not answer, or refuses
    └── ClusterError                  1   Ray is missing, too small or refuses

Every message says what was found, what was expected and what to do. Anything else that escapes is a bug.
"""

from __future__ import annotations


class NightrankError(Exception):
    """Base of every error that nightrank raises on purpose; `exit_code` is the command line's."""

    exit_code = 1


class SettingsError(NightrankError):
    """A setting is unknown, of the wrong type or impossible."""

    exit_code = 2


class DataError(NightrankError):
    """Events, items or users cannot be used as they are."""

    exit_code = 2


class GateRefused(NightrankError):
    """A gate refused the candidate; the release in service stays."""

    exit_code = 3


class ReleaseError(NightrankError):
    """A release, run or store is missing, broken or cannot be trusted."""


class StoreConflict(ReleaseError):
    """A conditional write lost: the object changed since it was read."""


class StoreUnreachable(ReleaseError):
    """An object store did not answer, refused, or could not be read for want of room here: that is no damage."""


class ClusterError(NightrankError):
    """The Ray cluster is missing, too small or refuses the work."""
