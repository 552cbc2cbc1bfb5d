"""Who may call: the keys of a file, and the check that every request goes through. Knows no Ray and no HTTP.

The file is followed while the service runs, so keys are exchanged without a restart: add one, move its callers,
revoke the old one. Never logs or tells a key, nor where the file is to anybody who asks over HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nightrank.errors import SettingsError
from nightrank.service.key_file import KeyRecord, Role, Unusable, read_records, signature, told

log = logging.getLogger("nightrank.service")

EVERY_S = 1.0
_MAX_HEADER_BYTES = 256  # "Bearer " and a key are 53
_SCHEME = b"bearer "


class Keys:
    """The keys of a file, followed while it changes. problem: why what it holds now is not in force."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError where the file is missing, malformed, or may be written by others."""
        self.path = path
        self.problem: str | None = None
        try:
            self._seen, records = read_records(path)
        except Unusable as error:
            raise SettingsError(f"key file {path}: {error}") from None
        self._held = _digests(records)

    def follow(self) -> None:
        """Look at the file every second from now on, in a thread that waits for nothing else."""
        threading.Thread(target=self._loop, name="nightrank-keys", daemon=True).start()

    def _loop(self) -> None:
        while True:
            time.sleep(EVERY_S)
            try:
                self.refresh()
            except Exception:  # whatever it is, keys are revoked as long as the service runs
                log.exception("the key file cannot be looked at; the keys read before stay in force")

    def refresh(self) -> None:
        """Read the file again where it changed; costs one stat otherwise. Never raises.

        A file that cannot be used changes nothing: the keys read before stay in force, `problem` says why.
        """
        try:
            if signature(os.stat(self.path)) == self._seen:
                return
            self._seen, records = read_records(self.path)
        except (Unusable, OSError) as error:
            why = str(error) if isinstance(error, Unusable) else told(error)
            problem = f"the key file is refused: {why}; the keys read before stay in force"
            if problem != self.problem:
                log.error("key file %s: %s; the keys read before stay in force", self.path, why)
            self.problem, self._seen = problem, ()
            return
        if self.problem is not None:
            log.info("key file %s is in force again", self.path)
        self._held, self.problem = _digests(records), None

    def role(self, authorization: bytes | None) -> Role | None:
        """What the key in an Authorization header allows; None where there is none, or none that is known.

        Compares SHA-256 digests with every key, each in constant time and without an early exit.
        """
        if authorization is None or len(authorization) > _MAX_HEADER_BYTES:
            return None
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        digest = hashlib.sha256(authorization[len(_SCHEME) :].strip(b" ")).digest()
        found: Role | None = None
        for known, role in self._held:
            if hmac.compare_digest(digest, known):
                found = role
        return found


def _digests(records: Sequence[KeyRecord]) -> tuple[tuple[bytes, Role], ...]:
    return tuple((bytes.fromhex(one.sha256), one.role) for one in records)
