"""What is in a store beside its releases: runs at work, runs that ended, and what a kill left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nightrank.errors import StoreConflict
from nightrank.release.lease import GONE_S, holder
from nightrank.release.manifest import CURRENT, RELEASE_ID, pointer, release_key
from nightrank.release.publish import PREVIOUS, published
from nightrank.release.store import Store

RUN_KEY = re.compile(r"[0-9a-f]{16}")
LATEST = "runs/LATEST"


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
    """Remove a release: its manifest first, so that it does not exist for anybody while its files go."""
    store.delete(release_key(release_id, "manifest.json"))
    store.delete_folder(release_key(release_id))


def remove_leftovers(store: Store, *, runs: Iterable[RunFolder], releases: Iterable[str]) -> None:
    """Remove runs and release folders, but not those at which somebody began to work since they were listed.

    Runs go first: a run whose lists are gone would only write them anew.
    """
    listed = {run.key for run in runs}
    found = run_folders(store)
    at_work = {run.release for run in found if run.busy is not None}
    for run in found:
        if run.key in listed and run.busy is None:
            _remove_run(store, run)
    for release_id in releases:
        if release_id not in at_work:
            remove_release(store, release_id)


def _remove_run(store: Store, run: RunFolder) -> None:
    """The folder, and the pointer to the latest run where it was that."""
    latest = store.read(LATEST)
    if latest is not None and latest.data.decode(errors="replace").strip() == run.key:
        store.delete(LATEST)
    store.delete_folder(run.folder)


def protected(store: Store) -> dict[str, str]:
    """Releases that nobody may remove, with the reason: the one in service and the one that was before it."""
    found = {}
    before = store.read(PREVIOUS)
    if before is not None:
        found[before.data.decode(errors="replace").strip()] = "was in service before"
    in_service, _ = pointer(store)
    if in_service is not None:
        found[in_service] = f"in service ({CURRENT})"
    return found
