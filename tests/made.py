"""Small inputs and whole releases for tests, made by the product's own code in this process, without Ray.

Everything is a function of its arguments: no test that calls these downloads, mocks or shares anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.batch.on_test import values_on_test
from nightrank.batch.publish import publish
from nightrank.batch.run import Run, start_run
from nightrank.batch.scorer import ScoreUnits
from nightrank.batch.train import _fit_all, chosen_recipe, stand_in_of
from nightrank.batch.units import RECOMMENDATIONS, all_units, record_name
from nightrank.config.job import JobConfig, resolve_paths
from nightrank.data.interactions import Interactions
from nightrank.models import FactorModel, fit
from nightrank.quality.gates import quality_gate
from nightrank.release.manifest import release_key
from nightrank.release.model_files import open_model, save_model
from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store, open_store

N_USERS, N_ITEMS = 60, 40
COLUMNS = {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"}
GENRES = ("Comedy", "Drama", "Sci-Fi")
ODD_TEXTS = ("7", "a b", "c%2Fd?e#f&g=h+i", "ünïcode", "日本", "😀 user", "'; DROP TABLE", "Z", "z", "..x")


@dataclass(frozen=True)
class Published:
    """A store with one release in service, the run that made it, and the release opened."""

    store: Store
    run: Run
    release: Release

    @property
    def folder(self) -> Path:
        """Where the release lies."""
        return place(self.store, release_key(self.release.id))


def place(store: Store, key: str) -> Path:
    """Where a key of a local store lies."""
    return Path(store.url) / key


def make_ids(n: int, *, kind: str) -> list[Any]:
    """n distinct ids: 0, negative and the ends of int64 among the integers, hard-to-quote ones in the texts."""
    if kind == "string":
        return [*ODD_TEXTS[:n], *(f"id-{number:04d}" for number in range(n - len(ODD_TEXTS[:n])))]
    ends = [0, -1, 2**63 - 1, -(2**63)][:n]
    return [*ends, *(7 * number + 3 for number in range(n - len(ends)))]


def make_events(
    *,
    n_users: int = N_USERS,
    n_items: int = N_ITEMS,
    users: str = "int64",
    items: str = "int64",
    seed: int = 0,
) -> pa.Table:
    """Events with weights 1 to 5 and times; user 4 has seen all items but 3, user 5 all of them."""
    rng = np.random.default_rng(seed)
    user_ids, item_ids = make_ids(n_users, kind=users), make_ids(n_items, kind=items)
    liked = 1.0 / np.arange(2, n_items + 2)
    rows: list[tuple[int, int]] = []
    for user in range(n_users):
        count = {4: n_items - 3, 5: n_items}.get(user, int(rng.integers(2, max(3, n_items // 4))))
        rows += [
            (user, int(item)) for item in rng.choice(n_items, count, replace=False, p=liked / liked.sum())
        ]
    order = rng.permutation(len(rows))
    return pa.table(
        {
            "user_id": [user_ids[rows[place][0]] for place in order],
            "item_id": [item_ids[rows[place][1]] for place in order],
            "weight": rng.integers(1, 6, len(rows)).astype(np.float32),
            "timestamp": rng.integers(880_000_000, 890_000_000, len(rows)),
        }
    )


def make_later_events(*, kind: str = "int64") -> pa.Table:
    """The events of a later night: users and items come and go, and user 5 no longer has seen everything."""
    users, items = make_ids(70, kind=kind), make_ids(46, kind=kind)
    events = make_events(n_users=70, n_items=46, users=kind, items=kind, seed=1).to_pylist()
    gone_users, gone_items = set(users[2:60:7]), set(items[3:46:9])
    return pa.Table.from_pylist(
        [
            event
            for place, event in enumerate(events)
            if event["user_id"] not in gone_users and event["item_id"] not in gone_items
            if event["user_id"] != users[5] or place % 2
        ]
    )


def make_items(*, n_items: int = N_ITEMS, items: str = "int64") -> pa.Table:
    """Titles (the third has none) and genres (none, two, and one twice to begin with) of n_items + 1 items.

    The last one is in no event.
    """
    ids = [*make_ids(n_items, kind=items), "id-nobody" if items == "string" else 999_999]
    genres = [GENRES[place % len(GENRES)] for place in range(n_items + 1)]
    genres[:3] = "", "Drama|Comedy", "Sci-Fi| Sci-Fi"
    titles = [f"Títle {place}" if place != 2 else None for place in range(n_items + 1)]
    return pa.table({"item_id": ids, "title": titles, "genres": genres})


def make_users(*, n_users: int = N_USERS, users: str = "int64") -> pa.Table:
    """Ages as numbers and genders (the second has none), of n_users people."""
    rng = np.random.default_rng(2)
    genders = [("f", "m")[place % 2] for place in range(n_users)]
    genders[1] = ""
    ages = rng.uniform(15, 80, n_users)
    return pa.table({"user_id": make_ids(n_users, kind=users), "age": ages, "gender": genders})


def make_job(
    folder: Path,
    *,
    events: pa.Table | None = None,
    items: pa.Table | None = None,
    users: pa.Table | None = None,
    weighing: dict[str, Any] | None = None,
    **settings: Any,
) -> JobConfig:
    """A job over the given tables (default: `make_events`, `make_items`); no item table where `items=[]`.

    users: a table such as `make_users`; with it the job names features of users, and genres as one of items.
    weighing: settings of the job's `events` besides its path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(make_events() if events is None else events, folder / "events.parquet")
    raw: dict[str, Any] = {
        "store": "store",
        "events": {"path": "events.parquet", "columns": COLUMNS} | (weighing or {}),
        "train": {"model": "als", "params": {"factors": 8, "epochs": 3}},
        "score": {"k": 20, "buckets": 4, "similar_items_k": 10},
    }
    table = make_items() if items is None else items
    if len(table):
        pq.write_table(table, folder / "items.parquet")
        raw["items"] = {"path": "items.parquet", "title": "title", "categories": "genres"}
    if users is not None:
        pq.write_table(users, folder / "users.parquet")
        raw["users"] = {"path": "users.parquet", "features": ["age", "gender"]}
        raw["items"]["features"] = ["genres"]
    return resolve_paths(JobConfig.model_validate(raw | settings), base=folder)


Change = Callable[[FactorModel, Interactions], FactorModel]


def trained_run(job: JobConfig, *, threads: int = 1, change: Change | None = None) -> Run:
    """The job's run with its recipe judged against the baseline and fitted on all events.

    change: what the model that is saved is made of the fitted one by.
    """
    run = start_run(open_store(job.store), job, find_inputs(job))
    recipe = chosen_recipe(run)
    stand_in = stand_in_of(job)
    found = values_on_test(job, run.inputs, (recipe, stand_in), threads=threads)
    quality = quality_gate(
        *found.values,
        metric=job.objective.name,
        shares=found.shares,
        min_change=-1.0,
        baseline_recipe={"family": stand_in.family},
    ).as_dict()
    model = _fit_all(job, run.inputs, recipe, run.store.url, run.name("model"), threads)
    if change is not None:
        interactions = load_interactions(job, run.inputs, family=recipe.family)
        fitted = fit(recipe.family, interactions, params=recipe.params, seed=job.seed, label=job.label_rule)
        where = {"store": run.store, "key": run.name("model"), "n_buckets": model["buckets"]}
        how = {"seed": job.seed, "label": job.label_rule}
        card = save_model(change(fitted, interactions), interactions, **how, **where)
        model["model_hash"] = card.model_hash
    run.put_json(
        "stages/train.json",
        {"recipe": recipe.model_dump(), "quality": quality, "model": model, "seconds": 0.0},
    )
    return run


def scorer_of(run: Run, *, threads: int = 1) -> ScoreUnits:
    """The class that Ray Data runs in its actors."""
    return ScoreUnits(
        store=run.store.url,
        run=run.name(""),
        run_key=run.key,
        release=run.record.release,
        settings=run.job.score.model_dump(),
        metric=run.job.objective.name,
        n_threads=threads,
    )


def units_of(run: Run) -> list[dict[str, Any]]:
    """All units of a trained run."""
    return list(all_units(open_model(run.store, run.name("model"))))


def score_in_process(run: Run, *, threads: int = 1) -> Run:
    """Every unit written by one scorer, then the stage's record."""
    scorer = scorer_of(run, threads=threads)
    for unit in units_of(run):
        scorer.write(unit)
    return record_score(run)


def record_score(run: Run) -> Run:
    """The record of a score stage whose units are all written."""
    units = [unit for unit in units_of(run) if unit["table"] == RECOMMENDATIONS]
    records = [run.get_json(record_name(unit)) for unit in units]
    counts = {name: sum(record[name] for record in records) for name in ("users", "rows", "empty_users")}
    run.put_json("stages/score.json", counts | {"seconds": 0.0})
    return run


def scored_run(folder: Path, *, threads: int = 1, change: Change | None = None, **job: Any) -> Run:
    """A run in `folder` that has only its publish stage left; `job` goes to `make_job`."""
    trained = trained_run(make_job(folder, **job), threads=threads, change=change)
    return score_in_process(trained, threads=threads)


def published_release(
    folder: Path, *, threads: int = 1, change: Change | None = None, **job: Any
) -> Published:
    """A release in service in `folder`/store; `job` goes to `make_job`, `change` to `trained_run`."""
    run = scored_run(folder, threads=threads, change=change, **job)
    publish(run)
    return Published(store=run.store, run=run, release=open_release(run.store, run.record.release))


def copied(published: Published, folder: Path) -> Published:
    """The same in a store of its own, for tests that damage it."""
    shutil.copytree(published.store.url, folder / "store")
    store = open_store(str(folder / "store"))
    run = Run(store=store, record=published.run.record, job=published.run.job, inputs=published.run.inputs)
    return Published(store=store, run=run, release=open_release(store, published.release.id))
