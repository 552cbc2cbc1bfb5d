"""Removing everything that jobs ever made in a store: the clean-up after a trial, or of a product that ended."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass

from nightrank.release.cache import cache_of
from nightrank.release.leftovers import refuse_busy, run_folders
from nightrank.release.manifest import CURRENT
from nightrank.release.publish import PREVIOUS
from nightrank.release.store import LocalStore, Store
from nightrank.release.suppressed import SUPPRESSED

OURS = ("releases", "runs", "winners", "mlartifacts")
POINTERS = (CURRENT, PREVIOUS, "mlflow.db", ".lock")


@dataclass(frozen=True)
class Destruction:
    """What goes: folders and objects by key, with the number of files; what stays, with the reason."""

    folders: dict[str, int]
    objects: list[str]
    stays: dict[str, str]


def plan_destroy(store: Store) -> Destruction:
    """What would go. StoreConflict where a run is at work. Changes nothing."""
    refuse_busy(run_folders(store), what="destroying")
    folders = {name: len(store.names(name)) for name in OURS}
    stays = {}
    if store.read(SUPPRESSED) is not None:
        stays["erasure"] = "the list of erased people: without it a new night would bring them back"
    objects = [key for key in POINTERS if store.sizes([key]) != [None]]
    return Destruction({name: n for name, n in folders.items() if n}, objects, stays)


def destroy(store: Store, plan: Destruction) -> None:
    """Carry a plan out: the pointer first, so that nobody is sent to what goes."""
    for key in plan.objects:
        store.delete(key)
    for name in plan.folders:
        store.delete_folder(name)
    shutil.rmtree(cache_of(store.url), ignore_errors=True)
    if isinstance(store, LocalStore):
        with contextlib.suppress(OSError):  # what is not ours stays, and the folder with it
            store.root.rmdir()
