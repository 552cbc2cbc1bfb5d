"""Removing everything that jobs ever made in a store: the clean-up after a trial, or of a product that ended."""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass

from nightrank.errors import StoreConflict
from nightrank.release.cache import cache_of
from nightrank.release.erase import LEASE
from nightrank.release.lease import holder
from nightrank.release.leftovers import LATEST, RUN_KEY, refuse_busy, run_folders
from nightrank.release.manifest import CURRENT, RELEASE_ID
from nightrank.release.publish import PREVIOUS
from nightrank.release.store import LocalStore, Store
from nightrank.release.suppressed import SUPPRESSED

WINNER = re.compile(r"[0-9a-f]{12}\.json")
FOLDERS = {"runs": RUN_KEY, "releases": RELEASE_ID}
ARTIFACTS = "mlartifacts"
POINTERS = (CURRENT, PREVIOUS, LATEST, "mlflow.db", LEASE, ".lock")


@dataclass(frozen=True)
class Destruction:
    """What goes: folders and objects by key, with the number of files; what stays, with the reason."""

    folders: dict[str, int]
    objects: list[str]
    stays: dict[str, str]


def plan_destroy(store: Store) -> Destruction:
    """What would go: what has the names that jobs give, nothing else. Changes nothing.

    StoreConflict where a run or an erasure is at work.
    """
    refuse_busy(run_folders(store), what="destroying")
    if holder(store, LEASE) is not None:
        raise StoreConflict(
            f"people are being erased in store {store.url}; wait for it to end, then run it again"
        )
    folders = [f"{kind}/{name}" for kind, ours in FOLDERS.items() for name in _children(store, kind, ours)]
    counts = {key: len(store.names(key)) for key in [*folders, ARTIFACTS]}
    if counts[ARTIFACTS] == 0:
        del counts[ARTIFACTS]
    winners = [f"winners/{name}" for name in _children(store, "winners", WINNER)]
    objects = [key for key in POINTERS if store.read(key) is not None]
    stays = {}
    if store.read(SUPPRESSED) is not None:
        stays["erasure/"] = "the list of erased people: without it a new night would bring them back"
    return Destruction(folders=counts, objects=[*objects, *winners], stays=stays)


def destroy(store: Store, plan: Destruction) -> None:
    """Carry a plan out: the pointer first, so that nobody is sent to what goes."""
    for key in plan.objects:
        store.delete(key)
    for key in plan.folders:
        store.delete_folder(key)
    shutil.rmtree(cache_of(store.url), ignore_errors=True)
    if isinstance(store, LocalStore):
        for folder in (*(store.root / name for name in (*FOLDERS, "winners", "erasure")), store.root):
            with contextlib.suppress(OSError):  # what is not ours stays, and the folder with it
                folder.rmdir()


def _children(store: Store, key: str, ours: re.Pattern[str]) -> list[str]:
    return [name for name in store.children(key) if ours.fullmatch(name)]
