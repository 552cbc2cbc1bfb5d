"""Our lines in Serve's log of the replica: its file, its format, and the id of the request that they belong to.

Without this, warnings go to the worker's stderr in a file that nobody looks at, and the rest goes nowhere.
"""

from __future__ import annotations

import logging


def join_serves_log() -> None:
    """Inside a replica: what `nightrank` logs from INFO on goes where Serve's own lines of this replica go."""
    serves, ours = logging.getLogger("ray.serve"), logging.getLogger("nightrank")
    ours.handlers, ours.propagate = list(serves.handlers), False
    ours.setLevel(logging.INFO)
