"""What is in a store beside its releases: runs at work, runs that ended, and what a kill left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nightrank.errors import StoreConflict
from nightrank.release.lease import GONE_S, holder
from nightrank.release.manifest import CURRENT, RELEASE_ID, pointer, release_key
from nightrank.release.publish import PREVIOUS, before_current, published
from nightrank.release.store import Store

RUN_KEY = re.compile(r"[0-9a-f]{16}")
LATEST = "runs/LATEST"
LEASE = "erasure/lease"  # one at a time prunes, erases or destroys


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. release: the id that run.json fixed, None where it cannot be read. busy: who works on it."""

    key: str
    release: str | None
    busy: str | None

    @property
    def folder(self) -> str:
        """Its store key."""
        return f"runs/{self.key}"


def run_folders(store: Store) -> list[RunFolder]:
    """Every run of a store."""
    return [_run_folder(store, key) for key in store.children("runs") if RUN_KEY.fullmatch(key)]


def _run_folder(store: Store, key: str) -> RunFolder:
    owner = holder(store, f"runs/{key}/lease")
    found = store.read(f"runs/{key}/run.json")
    try:
        release = None if found is None else str(json.loads(found.data)["release"])
    except (ValueError, KeyError, TypeError):
        release = None
    busy = None if owner is None else f"process {owner.pid} on {owner.host}"
    return RunFolder(key=key, release=release, busy=busy)


def refuse_busy(runs: Iterable[RunFolder], *, what: str) -> None:
    """StoreConflict where a process is at work on any of these runs."""
    for run in runs:
        if run.busy is not None:
            raise StoreConflict(
                f"run {run.key} is at work ({run.busy}), and {what} would pull the ground from under it; wait for it "
                "to end, or stop it, then run the command again. If that process died on another machine, its hold "
                f"ends by itself {GONE_S / 60:g} minutes later"
            )


def unpublished(store: Store) -> Iterator[str]:
    """Ids of release folders without a manifest."""
    known = set(published(store))
    yield from (
        name for name in store.children("releases") if RELEASE_ID.fullmatch(name) and name not in known
    )


def remove_release(store: Store, release_id: str) -> None:
    """Remove a release: its manifest first, so that it does not exist for anybody while its files go.

    StoreConflict, with the manifest back in its place, where somebody puts it in service at that moment: they look
    for the manifest after they moved CURRENT, and this looks at CURRENT after the manifest went, so one sees it.
    """
    key = release_key(release_id, "manifest.json")
    manifest = store.read(key)
    store.delete(key)
    if pointer(store)[0] == release_id:
        if manifest is not None:
            store.put(key, manifest.data)
        raise StoreConflict(
            f"release {release_id} of store {store.url} was put in service meanwhile and stays; run the command again"
        )
    store.delete_folder(release_key(release_id))


def remove_leftovers(store: Store, *, runs: Iterable[RunFolder], unfinished: Iterable[str]) -> None:
    """Remove runs and release folders without a manifest, but not those at which somebody works, or which are
    published, since they were listed.

    Runs go first: a run whose lists are gone would only write them anew.
    """
    listed = {run.key for run in runs}
    for run in run_folders(store):
        if run.key in listed and run.busy is None:
            _remove_run(store, run)
    for release_id in unfinished:
        if release_id not in at_work(store) and not _is_published(store, release_id):
            store.delete_folder(release_key(release_id))


def at_work(store: Store) -> set[str | None]:
    """The releases of runs that a process works on."""
    return {run.release for run in run_folders(store) if run.busy is not None}


def _is_published(store: Store, release_id: str) -> bool:
    return store.read(release_key(release_id, "manifest.json")) is not None


def _remove_run(store: Store, run: RunFolder) -> None:
    """The folder, and the pointer to the latest run where it was that."""
    latest = store.read(LATEST)
    if latest is not None and latest.data.decode(errors="replace").strip() == run.key:
        store.delete(LATEST)
    store.delete_folder(run.folder)


def protected(store: Store) -> dict[str, str]:
    """Releases that nobody may remove, with the reason: the one in service and the one that was before it.

    Where PREVIOUS names no other release that is there, the newest other one is kept for a rollback.
    """
    in_service, _ = pointer(store)
    lines, _ = before_current(store)
    found = dict.fromkeys(lines, "was in service before")
    if not any(_is_other(store, one, than=in_service) for one in lines):
        others = [one for one in published(store) if one != in_service]
        found |= dict.fromkeys(others[-1:], f"the newest to go back to, since {PREVIOUS} names none")
    if in_service is not None:
        found[in_service] = f"in service ({CURRENT})"
    return found


def _is_other(store: Store, release_id: str, *, than: str | None) -> bool:
    return (
        release_id != than
        and RELEASE_ID.fullmatch(release_id) is not None
        and _is_published(store, release_id)
    )
