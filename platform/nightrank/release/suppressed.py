"""The store's list of people who were erased (`erasure/suppressed.json`): a key and keyed hashes, never an id."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, ValidationError

from nightrank.data.ids import Id
from nightrank.data.suppression import Suppressed
from nightrank.errors import ReleaseError
from nightrank.release.store import Store

SUPPRESSED = "erasure/suppressed.json"


class SuppressedRecord(BaseModel):
    """key: 32 bytes in hex. hashes: sorted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str
    hashes: list[str]


def read_suppressed(store: Store) -> Suppressed:
    """Who must be left out of events; nobody where nobody was ever erased. Raises ReleaseError on a broken list."""
    return _read(store)[0]


def suppress(store: Store, users: Iterable[Id]) -> Suppressed:
    """Put people on the list. StoreConflict where somebody else changed it in between."""
    before, tag = _read(store)
    found = Suppressed(key=before.key or secrets.token_bytes(32), hashes=before.hashes)
    hashes = found.hashes | {found.hash_of(user) for user in users}
    after = Suppressed(key=found.key, hashes=hashes)
    if after.hashes != before.hashes:
        record = SuppressedRecord(key=after.key.hex(), hashes=sorted(after.hashes))
        store.put_if_match(SUPPRESSED, record.model_dump_json(indent=1).encode() + b"\n", tag)
    return after


def _read(store: Store) -> tuple[Suppressed, str | None]:
    found = store.read(SUPPRESSED)
    if found is None:
        return Suppressed(key=b""), None
    try:
        record = SuppressedRecord.model_validate_json(found.data)
        return Suppressed(key=bytes.fromhex(record.key), hashes=frozenset(record.hashes)), found.tag
    except (ValidationError, ValueError):
        raise ReleaseError(
            f"{SUPPRESSED} in store {store.url} is broken, so people who were erased could come back; restore it "
            "from a backup before anything else is run"
        ) from None
