"""Erasing people from everything that a store holds.

Each release that knows them gets a successor without them, published like any release; it takes the old one's place
and CURRENT, then the old folder goes. Runs go whole: their models hold the people too, and they could not be resumed
on other events. Item vectors and what follows from them were fitted with the people's events and stay so until the
next night. The receipt says all of that. Killed anywhere, the same call goes on.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nightrank.data.ids import INT64, Id
from nightrank.errors import DataError, ReleaseError
from nightrank.release.leftovers import refuse_busy, remove_release, remove_run, run_folders, unpublished
from nightrank.release.manifest import CURRENT, pointer, release_key
from nightrank.release.model_files import ModelCard, read_card
from nightrank.release.publish import PREVIOUS, move_current, published, verify, write_release
from nightrank.release.store import Store
from nightrank.release.successor import Successor, rows_of, successor_id
from nightrank.release.suppressed import suppress

HANDOVER_S = 5.0  # services look at CURRENT every second, then open what it names
NOT_DONE = (
    "input files of events and users: remove the people there too; until then they are left out when events are read",
    "item vectors, item biases, similar items and metrics: fitted with the people's events until the next night "
    "publishes",
    "copies elsewhere: warehouse tables, backups, logs, and on S3 older versions of objects and the caches of nodes, "
    "which go an hour after their last use",
    "services that are pinned to a replaced release: give them the successor's id",
)

Receipt = dict[str, Any]


def erase(store: Store, users: Sequence[str], *, handover_s: float = HANDOVER_S) -> Receipt:
    """Erase people by their ids as text; returns the receipt, which is kept in the store too.

    handover_s: how long services that answer from a replaced release have to open its successor.
    Raises DataError for what can be no id here, StoreConflict where a run is at work or CURRENT is moved meanwhile,
    and ReleaseError, after everything else was done, for releases that are damaged and so have no successor.
    """
    refuse_busy(run_folders(store), what="erasing people")
    ids = published(store)
    cards, damaged = _cards(store, ids)
    people = [_as_id(user, cards) for user in users]
    suppressed = suppress(store, people)
    refuse_busy(run_folders(store), what="erasing people")  # one that began before it could see the list
    hashes = [suppressed.hash_of(person) for person in people]
    receipt: Receipt = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "people": hashes, "releases": []}
    for release_id in cards:
        try:
            found = _replaced(store, release_id, people, hashes)
        except ReleaseError as error:
            damaged[release_id] = str(error)
            continue
        if found is not None:
            receipt["releases"].append(found)
    _take_over(store, {one["release"]: one["successor"] for one in receipt["releases"]}, wait_s=handover_s)
    runs = run_folders(store)
    for run in runs:
        remove_run(store, run)
    unfinished = list(unpublished(store))
    for release_id in unfinished:
        remove_release(store, release_id)
    receipt |= {"runs": [run.key for run in runs], "unfinished": unfinished, "damaged": damaged}
    receipt["not_done"] = list(NOT_DONE)
    name = f"erasure/receipts/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.json"
    store.put(name, json.dumps(receipt, indent=1, sort_keys=True).encode() + b"\n")
    if damaged:
        reasons = "\n  ".join(f"{release_id}: {reason}" for release_id, reason in damaged.items())
        raise ReleaseError(
            f"the people were erased everywhere but in releases that are damaged:\n  {reasons}\nremove these folders "
            f"of store {store.url} by hand; the receipt is {name}"
        )
    return receipt


def _cards(store: Store, ids: Sequence[str]) -> tuple[dict[str, ModelCard], dict[str, str]]:
    """The card of each release, and why others have none."""
    cards, damaged = {}, {}
    for release_id in ids:
        try:
            cards[release_id] = read_card(store, release_key(release_id, "arrays"))
        except ReleaseError as error:
            damaged[release_id] = str(error)
    return cards, damaged


def _as_id(user: str, cards: dict[str, ModelCard]) -> Id:
    """An id as the releases have it; where they have integers, 07 is 7."""
    if {card.user_id_type for card in cards.values()} != {"int64"}:
        return user
    if re.fullmatch(r"-?[0-9]{1,19}", user) is None or int(user) not in INT64:
        raise DataError(f"user {user!r} cannot be an id here: the users of this store are integers (int64)")
    return int(user)


def _replaced(
    store: Store, release_id: str, people: Sequence[Id], hashes: Sequence[str]
) -> dict[str, Any] | None:
    """Publish the successor of a release; None where it knows nobody of them."""
    manifest = verify(store, release_id)
    new_id = successor_id(release_id, hashes)
    successor = Successor(store, manifest, release_id=new_id)
    rows = rows_of(successor.model.user_ids, people)
    if not rows:
        return None
    if new_id not in published(store):
        write_release(store, successor.write(list(rows.values())))
    return {"release": release_id, "successor": new_id, "users": len(rows)}


def _take_over(store: Store, successors: dict[str, str], *, wait_s: float) -> None:
    """Let CURRENT and PREVIOUS name successors, then remove what they replaced."""
    before, _ = pointer(store)
    if before in successors:
        previous = store.read(PREVIOUS)
        move_current(store, successors[before], expected=before)
        if previous is None:
            store.delete(PREVIOUS)
        else:
            store.put(PREVIOUS, previous.data)
        time.sleep(wait_s)
    found = store.read(PREVIOUS)
    name = None if found is None else found.data.decode(errors="replace").strip()
    if name in successors:
        store.put(PREVIOUS, f"{successors[name]}\n".encode())
    still, _ = pointer(store)
    for release_id in successors:
        if release_id == still:
            raise ReleaseError(
                f"{CURRENT} was moved back to {release_id} meanwhile; run the command again, it goes on"
            )
        remove_release(store, release_id)
