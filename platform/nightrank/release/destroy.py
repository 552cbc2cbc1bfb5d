"""Removing everything that jobs ever made in a store: the clean-up after a trial, or of a product that ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import dataclass

from nightrank.config.locations import nightrank_home
from nightrank.errors import StoreConflict
from nightrank.release.cache import cache_of
from nightrank.release.lease import holder, leased
from nightrank.release.leftovers import LATEST, LEASE, RUN_KEY, refuse_busy, run_folders
from nightrank.release.manifest import CURRENT, RELEASE_ID
from nightrank.release.publish import PREVIOUS
from nightrank.release.store import LocalStore, Store
from nightrank.release.suppressed import SUPPRESSED

WINNER = re.compile(r"[0-9a-f]{12}\.json")
FOLDERS = {"runs": RUN_KEY, "releases": RELEASE_ID}
ARTIFACTS = "mlartifacts"
DATABASE = "mlflow.db"
LAST = (LEASE, ".lock")
POINTERS = (CURRENT, PREVIOUS, LATEST, DATABASE, *LAST)


@dataclass(frozen=True)
class Destruction:
    """What goes: folders and objects by key, with the number of files; what else stays, with the reason."""

    folders: dict[str, int]
    objects: list[str]
    stays: dict[str, str]


def plan_destroy(store: Store) -> Destruction:
    """What would go: what has the names that jobs give, nothing else. Changes nothing.

    StoreConflict where a run, an erasure or a pruning is at work.
    """
    refuse_busy(run_folders(store), what="destroying")
    owner = holder(store, LEASE)
    if owner is not None:
        raise StoreConflict(
            f"store {store.url} is being erased from or pruned by process {owner.pid} on {owner.host}; wait for "
            "it to end, then run it again"
        )
    folders = [f"{kind}/{name}" for kind, ours in FOLDERS.items() for name in _children(store, kind, ours)]
    counts = {key: len(store.names(key)) for key in [*folders, ARTIFACTS]}
    if counts[ARTIFACTS] == 0:
        del counts[ARTIFACTS]
    winners = [f"winners/{name}" for name in _children(store, "winners", WINNER)]
    objects = [key for key in POINTERS if store.read(key) is not None]
    return Destruction(folders=counts, objects=[*objects, *winners], stays=_stays(store))


def destroy(store: Store, plan: Destruction) -> None:
    """Carry a plan out: the pointer first, so that nobody is sent to what goes; StoreConflict as for the plan."""
    with leased(store, LEASE) as lease:
        refuse_busy(run_folders(store), what="destroying")
        for key in plan.objects:
            if key not in LAST:
                store.delete(key)
        for key in plan.folders:
            lease.check()
            store.delete_folder(key)
    for key in LAST:
        store.delete(key)
    shutil.rmtree(cache_of(store.url), ignore_errors=True)
    if isinstance(store, LocalStore):
        for folder in (*(store.root / name for name in (*FOLDERS, "winners", "erasure")), store.root):
            with contextlib.suppress(OSError):  # what is not ours stays, and the folder with it
                folder.rmdir()


def _stays(store: Store) -> dict[str, str]:
    """What jobs made and this leaves: the list of erased people, and MLflow's records outside the store."""
    found = {}
    if store.read(SUPPRESSED) is not None:
        found["erasure/"] = "the list of erased people: without it a new night would bring them back"
    database = nightrank_home() / DATABASE
    if not isinstance(store, LocalStore) and database.is_file():
        found[str(database)] = "MLflow's database on this machine, for all stores on S3; delete it by hand"
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        found["MLFLOW_TRACKING_URI"] = "what was tracked there is not in the store; delete it there"
    return found


def _children(store: Store, key: str, ours: re.Pattern[str]) -> list[str]:
    return [name for name in store.children(key) if ours.fullmatch(name)]
