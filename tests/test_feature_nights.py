"""Nights of families that learn from features: from events and tables to a release, and one truth for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import made
from nightrank.batch.nightly import open_run
from nightrank.batch.on_test import values_on_test
from nightrank.batch.publish import publish
from nightrank.batch.run import Recipe
from nightrank.batch.split_files import open_split
from nightrank.batch.sweep import _prepare
from nightrank.batch.train import _baseline
from nightrank.batch.trial_files import SPLIT, measured
from nightrank.batch.trials import begun, judged, spec_of
from nightrank.config.job import JobConfig
from nightrank.config.spaces import family_named, parse_params
from nightrank.release.manifest import release_key
from nightrank.release.publish import verify
from nightrank.release.reader import open_release
from nightrank.service.prepared import prepare

FM = {"factors": 8, "epochs": 4}
NIGHTS: dict[str, dict[str, Any]] = {
    "fm rating": {"train": {"model": "fm", "params": FM}, "objective": {"metric": "rmse"}},
    "fm label": {
        "train": {"model": "fm", "params": FM | {"task": "label"}},
        "objective": {"metric": "logloss"},
        "label": "weight>=4",
    },
    "hybrid": {"train": {"model": "hybrid", "params": {"factors": 8, "epochs": 4}}},
}
LINKS = {"fm rating": "identity", "fm label": "logistic", "hybrid": "none"}
NOBODY = 999_999  # the item of the table that is in no event


@pytest.fixture(scope="module", params=NIGHTS)
def night(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """What was published by each night, and its name."""
    folder = tmp_path_factory.mktemp("night")
    return request.param, made.published_release(folder, users=made.make_users(), **NIGHTS[request.param])


def test_a_night_ends_in_a_release_with_its_features(night: tuple[str, made.Published]) -> None:
    """Train, gate, score and publish take a family with features as any other: verified, linked, with its columns."""
    name, published = night
    card = published.release.model.card
    verify(published.store, published.release.id)
    assert card.link == LINKS[name]
    assert card.bounds == ((1.0, 5.0) if name == "fm rating" else None)
    assert card.label == ("weight>=4" if name == "fm label" else None)
    assert published.release.manifest.label == card.label
    assert [column.name for column in card.user_features] == ["age", "gender"]
    assert card.user_features[1].values == ("f", "m")
    features = published.release.model.user_features
    assert features.vectors.shape == (3, published.release.model.user_vectors.shape[1])
    vector, unknown = features.vector_of({"gender": "m", "age": 30.0, "town": "Bonn"})
    assert vector is not None
    assert unknown == ["town"]
    tables = published.run.finished("train")["model"]["metadata"]
    assert tables["items"]["without_events"] == 1
    assert tables["users"]["columns"][1]["missing"] == 1
    prepare(published.release)


def test_the_gate_speaks_of_the_objective(night: tuple[str, made.Published]) -> None:
    """The metric's own name and sign in gate and manifest; what stood in can give that metric."""
    name, published = night
    quality = published.release.manifest.gates["quality"]
    metric, stand_in = {
        "fm rating": ("rmse", "mean"), "fm label": ("logloss", "mean"), "hybrid": ("ndcg@10", "popularity"),
    }[name]  # fmt: skip
    assert quality["metric"] == metric
    assert quality["baseline_recipe"]["family"] == stand_in
    assert published.release.manifest.metrics == {metric: quality["candidate"]}
    better = quality["candidate"] - quality["baseline"]
    assert quality["candidate"] > 0
    assert quality["change"] == pytest.approx(-better if metric in ("rmse", "logloss") else better)
    assert quality["change_low"] <= quality["change"] <= quality["change_high"]
    lists = pq.read_schema(next(published.folder.glob("recommendations/*.parquet")))
    assert lists.metadata[b"nightrank.metric"] == metric.encode()


def test_an_item_that_nobody_has_is_an_item_of_the_release(night: tuple[str, made.Published]) -> None:
    """The catalogue is train's items and the item table's: ranked, with a title, similar items and 0 users."""
    _, published = night
    release = published.release
    row = release.model.item_ids.find(NOBODY)
    assert row is not None
    assert release.model.card.n_items == made.N_ITEMS + 1
    assert release.model.popularity[row] == 0
    structure = release.manifest.gates["structure"]
    assert (structure["new_items"], structure["new_items_recommended"]) == (1, 1)
    assert 0 < structure["coverage"] <= 1
    assert release.title(row) is not None
    items, cosines = release.similar(row)
    assert len(items) == 10
    assert row not in items
    assert np.isfinite(cosines).all()
    popular = pq.read_table(published.folder / "popular.parquet").to_pylist()
    overall = [one["score"] for one in popular if one["category"] is None]
    assert overall == sorted(overall, reverse=True)
    user = release.model.user_ids.find(made.make_ids(6, kind="int64")[5])  # who has seen all that anybody has
    assert user is not None
    assert release.recommendations(user)[0].tolist() == [row]


def test_a_night_twice_gives_the_same_bytes(night: tuple[str, made.Published], tmp_path: Path) -> None:
    """Equal inputs and settings give equal arrays, whatever happened to the first run."""
    name, published = night
    again = made.trained_run(
        made.make_job(tmp_path, users=made.make_users(), **NIGHTS[name]), threads=2
    ).finished("train")
    assert again["model"]["model_hash"] == published.release.manifest.model_hash


def test_no_feature_known_is_still_an_item(tmp_path: Path) -> None:
    """An item of an unseen genre has a place all the same; what has no direction has no similar items."""
    table = made.make_items()
    genres = table["genres"].to_pylist()
    genres[-1] = "Western"
    published = made.published_release(
        tmp_path,
        items=table.set_column(2, "genres", pa.array(genres)),
        users=made.make_users(),
        **NIGHTS["hybrid"],
    )
    release = published.release
    row = release.model.item_ids.find(NOBODY)
    assert row is not None
    has_direction = bool(release.model.item_vectors[row].any())
    assert bool(len(release.similar(row)[0])) == has_direction
    verify(published.store, release.id)


def test_all_families_are_held_against_one_truth(tmp_path: Path) -> None:
    """A sweep over als, fm and hybrid: trials from files, and per-user values of the same users."""
    models = {"als": {}, "fm": {}, "hybrid": {}}
    job = made.make_job(tmp_path, users=made.make_users(), train={}, sweep={"models": models})
    run = open_run(job)
    _prepare(job, run.inputs, run.store.url, run.name(SPLIT))
    assert open_split(run.store, run.name(SPLIT), combine="sum").train.features is None
    records, values = [], {}
    for family in ("popularity", *models):
        params = parse_params(
            family_named(family), {} if family == "popularity" else {"factors": 8, "epochs": 3}
        )
        record = begun(spec_of(family, params), seed=0, origin="search")
        found = measured(record, run.store, run.name(""), job=job, threads=1, report=lambda told: None)
        assert found["state"] == "done", found["reason"]
        records.append(found)
        values[found["trial"]] = np.load(
            made.place(run.store, run.name(f"sweep/values/{found['trial']}.npy"))
        )
    counted = {tuple(np.flatnonzero(~np.isnan(one))) for one in values.values()}
    assert len(counted) == 1
    judgement = judged(records, values.__getitem__, metric="ndcg@10", min_change=-0.01)
    assert sum(one["chosen"] for one in judgement) == 1
    recipes = [Recipe(family=one["family"], params=one["params"]) for one in records]
    on_test = values_on_test(job, run.inputs, recipes, threads=1)
    assert len({tuple(np.isnan(one)) for one in on_test.values}) == 1


@pytest.mark.parametrize(
    ("objective", "more", "stands_in"),
    [
        ({"metric": "ndcg"}, {}, None),
        ({"metric": "rmse"}, {}, "mean"),
        ({"metric": "logloss"}, {"label": "weight>=4"}, "mean"),
    ],
)
def test_who_stands_in_for_a_recipe_that_cannot_give_the_metric(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    objective: dict[str, Any],
    more: dict[str, Any],
    stands_in: str | None,
) -> None:
    """Als in service is held against by rank; where ratings or classes are judged, mean stands in, and it is said."""
    before = made.published_release(tmp_path)
    task = "label" if objective["metric"] == "logloss" else "rating"
    train = {"model": "fm", "params": FM | {"task": task}}
    given = {"store": before.store.url, "objective": objective, "train": train, **more}
    run = open_run(made.make_job(tmp_path / "later", users=made.make_users(), **given))
    recipe, why_not = _baseline(run)
    if stands_in is None:
        assert (recipe.family, recipe.release, why_not) == ("als", before.release.id, None)
        assert "stands in" not in caplog.text
    else:
        assert (recipe.family, recipe.params, recipe.release) == (stands_in, {"task": task}, None)
        assert f"cannot give {objective['metric']}: mean stands in for it" in caplog.text
        assert why_not is not None
        assert (why_not["release"], why_not["reason"]) == (
            before.release.id,
            f"cannot give {objective['metric']}",
        )
        on_test = values_on_test(run.job, run.inputs, [recipe], threads=1)
        assert np.isfinite(on_test.values[0]).any()


def test_an_erased_person_teaches_no_feature(tmp_path: Path) -> None:
    """A value that only an erased person has is no feature of the next night: their row of the table is not read."""
    users = made.make_users()
    genders = users["gender"].to_pylist()
    person = users["user_id"].to_pylist()[7]
    genders[7] = "unique-to-one"
    table = users.set_column(2, "gender", pa.array(genders))
    events = made.make_events()
    without = events.filter(pa.array([user != person for user in events["user_id"].to_pylist()]))
    for folder, rows, is_there in ((tmp_path / "a", events, True), (tmp_path / "b", without, False)):
        run = made.trained_run(made.make_job(folder, events=rows, users=table, **NIGHTS["hybrid"]))
        card = made.place(run.store, run.name("model/model.json")).read_text()
        assert ("unique-to-one" in card) == is_there


def test_a_release_without_features_opens_as_before(tmp_path: Path) -> None:
    """A family that learns from none of them has none, and its catalogue is that of the events."""
    published = made.published_release(tmp_path, users=made.make_users())
    assert published.release.model.user_features is None
    assert published.release.model.card.bounds is None
    assert published.release.model.card.n_items == made.N_ITEMS
    assert open_release(published.store).id == published.release.id


def test_an_item_table_of_features_alone_is_enough(tmp_path: Path) -> None:
    """Neither titles nor categories are needed: the published item table has the ids, and answers have no titles."""
    settings = made.make_job(tmp_path, **NIGHTS["hybrid"]).model_dump(mode="json")
    settings["items"] |= {"title": None, "categories": None, "features": ["genres"]}
    run = made.score_in_process(made.trained_run(JobConfig.model_validate(settings)))
    publish(run)
    release = open_release(run.store, run.record.release)
    folder = made.place(run.store, release_key(release.id))
    table = pq.read_table(folder / "items.parquet")
    assert table.column_names == ["item_id"]
    assert release.model.card.n_items == made.N_ITEMS + 1
    assert release.model.card.user_features is None
    assert release.titles is None
    assert prepare(release).release is release


def test_a_large_item_table_does_not_close_the_gate(tmp_path: Path) -> None:
    """Twenty times as many items without events as with some: what is asked of coverage is asked of the latter."""
    table, n_new = made.make_items(), 20 * made.N_ITEMS
    new = pa.table(
        {
            "item_id": pa.array(range(2_000_000, 2_000_000 + n_new), table["item_id"].type),
            "title": pa.array(["new"] * n_new, table["title"].type),
            "genres": pa.array(["Western"] * n_new, table["genres"].type),
        }
    )
    items = pa.concat_tables([table, new])
    gate = {"min_coverage": 0.2}
    published = made.published_release(
        tmp_path, items=items, users=made.make_users(), gate=gate, **NIGHTS["hybrid"]
    )
    structure = published.release.manifest.gates["structure"]
    assert structure["new_items"] == n_new + 1
    assert 0.2 <= structure["coverage"] <= 1
    shown = structure["coverage"] * made.N_ITEMS + structure["new_items_recommended"]
    assert shown / published.release.model.card.n_items < 0.2  # the share of all, which would refuse it
