"""Removing old releases, and the leftovers of runs. Never the release in service or the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from nightrank.release.lease import leased
from nightrank.release.leftovers import (
    LATEST,
    LEASE,
    RunFolder,
    at_work,
    protected,
    remove_leftovers,
    remove_release,
    run_folders,
    unpublished,
)
from nightrank.release.publish import published
from nightrank.release.store import Store


@dataclass(frozen=True)
class Pruning:
    """What a pruning removes, and what it keeps with the reason."""

    releases: list[str]
    kept: dict[str, str]
    unfinished: list[str]
    runs: list[RunFolder]
    busy: dict[str, str]


def plan_prune(store: Store, *, keep: int, days: float | None = None) -> Pruning:
    """What would go: releases that are not among the `keep` newest and, where days are given, older than that.

    And leftovers: release folders that were never published and runs whose release is not there (any more), unless a
    process is at work on them or they are the latest run, which its rerun goes on with. Changes nothing.
    """
    ids, never = published(store), protected(store)
    newest = set(ids[max(0, len(ids) - keep) :])
    kept, gone = {}, []
    for release_id in ids:
        if release_id in never:
            kept[release_id] = never[release_id]
        elif release_id in newest:
            kept[release_id] = f"among the {keep} newest"
        elif days is not None and (why := _too_young(release_id, days)) is not None:
            kept[release_id] = why
        else:
            gone.append(release_id)
    runs, latest = run_folders(store), store.read(LATEST)
    last = None if latest is None else latest.data.decode(errors="replace").strip()
    left = [run for run in runs if run.release not in kept and run.key != last]
    needed = {run.release for run in runs if run not in left or run.busy is not None}
    return Pruning(
        releases=gone,
        kept=kept,
        unfinished=[one for one in unpublished(store) if one not in needed],
        runs=[run for run in left if run.busy is None],
        busy={run.key: run.busy for run in left if run.busy is not None},
    )


def prune(store: Store, plan: Pruning) -> None:
    """Carry a plan out, but for what was put in service, or is worked on, since it was made.

    StoreConflict where somebody else prunes, erases or destroys, or puts a release in service as it goes.
    """
    with leased(store, LEASE) as lease:
        remove_leftovers(store, runs=plan.runs, unfinished=plan.unfinished)
        for release_id in plan.releases:
            lease.check()
            if release_id not in protected(store) and release_id not in at_work(store):
                remove_release(store, release_id)


def _too_young(release_id: str, days: float) -> str | None:
    """Why a release is not old enough; None where it is."""
    try:
        made = datetime.strptime(release_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return "its id has no time that can be read"
    age = datetime.now(UTC) - made
    return f"less than {days:g} days old" if age.total_seconds() < days * 86_400 else None
