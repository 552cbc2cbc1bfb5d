"""People who were erased: their events are left out wherever events are read, so that they do not come back.

Kept are keyed hashes, no ids: whoever has the list can ask whether an id is on it, and cannot read it off.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from nightrank.data.events import Events
from nightrank.data.ids import Id
from nightrank.errors import DataError

DIGEST_BYTES = 16


@dataclass(frozen=True)
class Suppressed:
    """key: 32 secret bytes of one store. hashes: of the ids that are left out. An empty list leaves out nobody."""

    key: bytes
    hashes: frozenset[str] = frozenset()

    def hash_of(self, user: Id) -> str:
        """BLAKE2b of the id as text, with the key, in hex: 7 and "7" are one person."""
        text = str(user).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self.key, digest_size=DIGEST_BYTES).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Of the whole list; empty where nobody is on it."""
        lines = "\n".join(sorted(self.hashes))
        return hashlib.sha256(lines.encode()).hexdigest() if self.hashes else ""

    def without(self, events: Events) -> Events:
        """The events of everybody else, in their order; counts say how many users and events were left out.

        Cost: a hash of every distinct user (about a microsecond), nothing where the list is empty. Raises DataError
        where nobody else is there.
        """
        if not self.hashes:
            return events
        listed = (self.hash_of(user.as_py()) in self.hashes for user in events.user_ids.array)
        out = np.fromiter(listed, dtype=np.bool_, count=len(events.user_ids))
        if not out.any():
            return events
        keep = ~out[events.users]
        if not keep.any():
            raise DataError(
                f"events: nothing is left of {len(keep)} rows: all are of people who were erased from this store"
            )
        counts = replace(
            events.counts,
            suppressed_users=int(out.sum()),
            suppressed_events=int(len(keep) - np.count_nonzero(keep)),
        )
        return replace(events.where(keep), counts=counts)
