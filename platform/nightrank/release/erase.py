"""Erasing people from everything that a store holds.

Each release that knows them gets a successor without them, published like any release; it takes the old one's place
and CURRENT, then the old folder goes. Runs go whole: their models hold the people too, and they could not be resumed
on other events. Item vectors and what follows from them were fitted with the people's events and stay so until the
next night. The receipt says all of that; it is begun before anything is removed, so that a call that goes on where a
killed one stopped still tells the whole. Whom neither a release nor the model of a run knows only goes on the list.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nightrank.errors import DataError, ReleaseError, StoreUnreachable
from nightrank.release.lease import Lease, leased
from nightrank.release.leftovers import (
    LEASE,
    RunFolder,
    refuse_busy,
    remove_leftovers,
    remove_release,
    run_folders,
    unpublished,
)
from nightrank.release.manifest import CURRENT, pointer, release_key
from nightrank.release.model_card import ModelCard, read_card
from nightrank.release.publish import PREVIOUS, before_current, published, verify, write_release
from nightrank.release.store import Store
from nightrank.release.successor import Successor, integer, knows, rows_of, successor_id
from nightrank.release.suppressed import suppress

RECEIPTS = "erasure/receipts"
HANDOVER_S = 5.0  # services look at CURRENT every second, then open what it names
NOT_DONE = (
    "input files of events and users: remove the people there too; until then they are left out when events are read",
    "item vectors and biases, vectors and values of features, similar items, everybody else's vectors and lists, and "
    "metrics: fitted with the people's events until the next night publishes",
    "copies elsewhere: warehouse tables, backups, logs, and on S3 older versions of objects and the caches of nodes, "
    "which drop what was not used for an hour when they bring another release",
    "services that are pinned to a replaced release: give them the successor's id",
)

Receipt = dict[str, Any]


def erase(store: Store, users: Sequence[str], *, handover_s: float = HANDOVER_S) -> Receipt:
    """Erase people by their ids as text; returns the receipt, which is kept in the store too.

    handover_s: how long services that answer from a replaced release have to open its successor.
    Killed anywhere, the same call goes on. Raises DataError for what can be no id here, StoreConflict where a run,
    another erasure or a pruning is at work or CURRENT is moved meanwhile, StoreUnreachable where the store does not
    answer, and ReleaseError, after everything else was done, for releases that are damaged and so have no successor.
    """
    refuse_busy(run_folders(store), what="erasing people")
    with leased(store, LEASE) as lease:
        cards, damaged = _cards(store)
        people = _texts(users, {card.user_id_type for card in [*cards.values(), *_run_cards(store)]})
        knowing = _knowing(store, list(cards), people, damaged)
        is_known = bool(knowing or damaged) or _a_run_knows(store, people)
        suppressed = suppress(store, people)
        runs = run_folders(store)
        refuse_busy(runs, what="erasing people")  # one that began before it could see the list
        hashes = {person: suppressed.hash_of(person) for person in people}
        replaced = _replaced(store, knowing, hashes, damaged)
        lease.check()
        name, receipt = _begun(
            store, sorted(hashes.values()), replaced=replaced, runs=runs if is_known else None
        )
        successors = {one["release"]: one["successor"] for one in receipt["releases"]}
        _take_over(store, successors, wait_s=handover_s, lease=lease)
        gone = [run for run in runs if run.key in receipt["runs"]]
        remove_leftovers(store, runs=gone, unfinished=receipt["unfinished"])
        receipt |= {"finished": _now(), "damaged": damaged}
        _put(store, name, receipt)
    if damaged:
        reasons = "\n  ".join(f"{release_id}: {reason}" for release_id, reason in damaged.items())
        raise ReleaseError(
            f"the people were erased everywhere but in releases that are damaged:\n  {reasons}\nput them right from "
            f"a backup and run the command again, or remove these folders of store {store.url} by hand; the receipt "
            f"is {name}"
        )
    return receipt


def _cards(store: Store) -> tuple[dict[str, ModelCard], dict[str, str]]:
    """The card of each release, and why others have none."""
    cards, damaged = {}, {}
    for release_id in published(store):
        try:
            cards[release_id] = read_card(store, release_key(release_id, "arrays"))
        except StoreUnreachable:
            raise
        except ReleaseError as error:
            damaged[release_id] = str(error)
    return cards, damaged


def _run_cards(store: Store) -> list[ModelCard]:
    """The cards of runs, which say what ids are here before anything is published."""
    found = []
    for run in run_folders(store):
        try:
            found.append(read_card(store, f"{run.folder}/model"))
        except StoreUnreachable:
            raise
        except ReleaseError:
            continue
    return found


def _knowing(store: Store, ids: Sequence[str], people: Sequence[str], damaged: dict[str, str]) -> list[str]:
    """The releases that know any of the people, by their ids alone; unreadable ones are added to `damaged`."""
    found = []
    for release_id in ids:
        try:
            if knows(store, release_key(release_id, "arrays"), people):
                found.append(release_id)
        except StoreUnreachable:
            raise
        except ReleaseError as error:
            damaged[release_id] = str(error)
    return found


def _a_run_knows(store: Store, people: Sequence[str]) -> bool:
    """Does the model of any run? One that cannot be read may."""
    for run in run_folders(store):
        folder = f"{run.folder}/model"
        try:
            if store.read(f"{folder}/model.json") is not None and knows(store, folder, people):
                return True
        except StoreUnreachable:
            raise
        except ReleaseError:
            return True
    return False


def _texts(users: Sequence[str], kinds: set[str]) -> list[str]:
    """The ids as text, each once. Where all ids are integers 07 is 7; anywhere else it is another id."""
    if kinds != {"int64"}:
        return list(dict.fromkeys(users))
    for user in users:
        if integer(user) is None:
            raise DataError(
                f"user {user!r} cannot be an id here: the users of this store are integers (int64); nobody was erased"
            )
    return list(dict.fromkeys(str(integer(user)) for user in users))


def _replaced(
    store: Store, ids: Sequence[str], hashes: dict[str, str], damaged: dict[str, str]
) -> list[dict[str, Any]]:
    """Publish a successor of each release that knows any of the people; damaged ones are added to `damaged`."""
    found = []
    for release_id in ids:
        new_id = successor_id(release_id, list(hashes.values()))
        try:
            successor = Successor(store, verify(store, release_id), release_id=new_id)
            rows = rows_of(successor.model.user_ids, list(hashes))
        except StoreUnreachable:
            raise
        except ReleaseError as error:
            damaged[release_id] = str(error)
            continue
        if not rows:
            continue
        if new_id not in published(store):
            store.delete_folder(release_key(new_id))  # what a kill left there belongs to no manifest
            write_release(store, successor.write(list(rows.values())))
        known = sorted(hashes[person] for person in rows)
        found.append({"release": release_id, "successor": new_id, "people": known})
    return found


def _begun(
    store: Store, people: list[str], *, replaced: list[dict[str, Any]], runs: list[RunFolder] | None
) -> tuple[str, Receipt]:
    """The receipt and its key, written before anything goes: a new one, or that of the same call that was killed.

    runs: None where nobody knows the people; then no run and no unfinished release is added.
    """
    digest = hashlib.sha256("\n".join(people).encode()).hexdigest()[:12]
    name = f"{RECEIPTS}/{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{digest}.json"
    receipt: Receipt = {"begun": _now(), "finished": None, "people": people, "releases": [], "runs": []}
    receipt |= {"unfinished": [], "damaged": {}, "not_done": list(NOT_DONE)}
    for other in store.children(RECEIPTS):
        if other.endswith(f"-{digest}.json"):
            before = _unfinished(store, f"{RECEIPTS}/{other}")
            name, receipt = (f"{RECEIPTS}/{other}", before) if before is not None else (name, receipt)
    listed = {one["release"] for one in receipt["releases"]}
    receipt["releases"] += [one for one in replaced if one["release"] not in listed]
    old = {one["release"] for one in receipt["releases"]}
    if runs is not None:
        receipt["runs"] = sorted({*receipt["runs"], *(run.key for run in runs)})
        receipt["unfinished"] = sorted({*receipt["unfinished"], *unpublished(store)} - old)
    _put(store, name, receipt)
    return name, receipt


def _unfinished(store: Store, name: str) -> Receipt | None:
    """A receipt that was begun; None where it is finished, or cannot be read."""
    found = store.read(name)
    try:
        receipt: Receipt = {} if found is None else json.loads(found.data)
        return receipt if receipt["finished"] is None else None
    except (ValueError, KeyError, TypeError):
        return None


def _take_over(store: Store, successors: dict[str, str], *, wait_s: float, lease: Lease) -> None:
    """Let CURRENT and PREVIOUS name successors, then remove what they replaced."""
    before, tag = pointer(store)
    if before in successors:
        store.put_if_match(CURRENT, f"{successors[before]}\n".encode(), tag)
    names, previous_tag = before_current(store)
    if not successors.keys().isdisjoint(names):
        lines = "".join(f"{successors.get(name, name)}\n" for name in names)
        store.put_if_match(PREVIOUS, lines.encode(), previous_tag)
    if before in successors:
        time.sleep(wait_s)
    for release_id in successors:
        lease.check()
        still, _ = pointer(store)
        if release_id == still:
            raise ReleaseError(
                f"{CURRENT} was moved back to {release_id} meanwhile; run the command again, it goes on"
            )
        remove_release(store, release_id)


def _put(store: Store, name: str, receipt: Receipt) -> None:
    store.put(name, json.dumps(receipt, indent=1, sort_keys=True).encode() + b"\n")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
