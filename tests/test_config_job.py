"""The job file: what is accepted, what is refused and how, and what a run key is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nightrank.config import families
from nightrank.config.families import FAMILIES, Choices, Range
from nightrank.config.job import JobConfig, load_job, resolve_paths
from nightrank.config.locations import default_store, nightrank_home
from nightrank.config.rules import Rule
from nightrank.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
MOVIELENS = {"dataset": "movielens-100k"}
FILES = {"path": "events.parquet"}


@pytest.fixture(autouse=True)
def _no_home_of_ours(monkeypatch, tmp_path):
    monkeypatch.delenv("NIGHTRANK_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


ANY_SPLIT = {"kind": "per_user"}  # asks for no time column


def written(tmp_path: Path, **settings: object) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"events": MOVIELENS, "split": ANY_SPLIT, **settings}), encoding="utf-8")
    return path


def refusal(tmp_path: Path, inside_job: bool = False, **settings: object) -> str:
    path = written(tmp_path, **settings)
    with pytest.raises(SettingsError) as caught:
        load_job(path, inside_job=inside_job)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_the_shipped_job_is_valid_and_is_the_one_described():
    """jobs/nightly.yaml, which every new user runs first, loads and says what its comments say."""
    job = load_job(ROOT / "jobs" / "nightly.yaml")
    assert job.events.dataset == "movielens-100k"
    assert (job.events.combine, job.split.kind, job.split.n) == ("last", "leave_last", 1)
    assert (job.objective.metric, job.objective.k) == ("ndcg", 10)
    searched = {name: FAMILIES[name].own_space() for name in ("als", "ials", "svd")}
    assert (job.sweep.trials, job.sweep.models) == (12, searched)
    assert (job.score.k, job.score.exclude_seen) == (100, True)
    assert job.store == default_store()


def test_the_least_job_has_the_documented_defaults(tmp_path):
    """A job of one line is complete; these defaults are public."""
    job = load_job(written(tmp_path))
    assert (job.seed, job.items, job.train.model, job.train.params) == (0, None, None, {})
    assert (job.sweep.trials, job.gate.min_change, job.gate.min_coverage) == (24, -0.002, 0.05)
    assert job.score.model_dump() == {"k": 100, "exclude_seen": True, "buckets": None, "similar_items_k": 50}
    assert job.objective.model_dump() == {"metric": "ndcg", "k": 10, "relevant": None}
    assert (job.events.combine, job.events.half_life_days, job.events.type_weights) == (None, None, {})


def test_settings_are_frozen(tmp_path):
    """A stage cannot change the settings under the next one."""
    job = load_job(written(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        job.score.k = 5


def test_columns_default_to_what_the_source_has(tmp_path):
    """A data set's columns are known; of a file nothing is assumed but the two ids."""
    assert load_job(written(tmp_path)).events.columns.model_dump() == {
        "user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp", "type": None
    }  # fmt: skip
    assert load_job(written(tmp_path, events=FILES)).events.columns.model_dump() == {
        "user": "user_id", "item": "item_id", "weight": None, "time": None, "type": None
    }  # fmt: skip
    unweighted = load_job(written(tmp_path, events={**MOVIELENS, "columns": {"weight": None}}))
    assert (unweighted.events.columns.weight, unweighted.events.columns.time) == (None, "timestamp")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ({}, "events: found neither dataset nor path"),
        ({**MOVIELENS, **FILES}, "events: found both dataset and path"),
        ({"dataset": "movielens-1m"}, "expected 'movielens-100k'"),
        (
            {"path": "s3://bucket/x"},
            'events.path: found "s3://bucket/x"; s3:// is not available here',
        ),
        ({"path": "  "}, "events.path: found"),
        ({"path": "e", "columns": {"user": ""}}, "events.columns.user"),
        ({"path": "e", "columns": {"weight": "w", "time": "w"}}, "also the weight column"),
        ({"path": "e", "columns": {"user": "item_id"}}, "also the user column"),
        ({**MOVIELENS, "columns": {"weight": "rating"}}, 'events.columns.weight: found "rating"'),
        ({"path": "e", "type_weights": {"a": 1}}, "without a type column"),
        ({"path": "e", "columns": {"type": "t"}}, "give at least one type a weight above 0"),
        ({"path": "e", "columns": {"type": "t"}, "type_weights": {"a": 0}}, "at least one type"),
        (
            {"path": "e", "columns": {"type": "t"}, "type_weights": {"a": -1}},
            "events.type_weights.a: found -1",
        ),
        ({"path": "e", "half_life_days": 30}, "events.half_life_days: found 30.0 without a time column"),
        ({**MOVIELENS, "half_life_days": 0}, "expected more than 0"),
        ({"path": "e", "combine": "last"}, 'events.combine: found "last" without a time column'),
        ({**MOVIELENS, "combine": "mean"}, "expected 'sum', 'max' or 'last'"),
    ],
)
def test_events_that_cannot_be_meant_are_refused(tmp_path, events, said):
    """One source, columns for what needs them, no column in two roles: else the key is named."""
    assert said in refusal(tmp_path, events=events)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"items": {"path": "i"}}, "items: found neither title, categories nor features"),
        ({"items": {"path": "i", "title": "t", "separator": ","}}, "items.separator"),
        ({"items": {"title": "t"}}, "items.path: missing"),
        ({"split": {"kind": "random"}}, "split.kind: found \"random\", expected 'leave_last'"),
        ({"split": {"share": 0.1}}, "split.share: found 0.1, which leave_last does not take; use n in its place"),
        ({"split": {"kind": "per_user", "share": 0.1}}, "or set kind to temporal or random_mask"),
        ({"split": {"kind": "temporal", "n": 2}}, "split.n: found 2, which temporal does not take; use share"),
        ({"split": {"kind": "random_mask", "n": 1}}, "or set kind to leave_last or per_user"),
        ({"split": {"kind": "random_mask", "share": 0}}, "split.share: found 0, expected more than 0"),
        ({"split": {"kind": "temporal", "share": 1.0}}, "split.share: found 1.0, expected less than 1"),
        ({"split": {"n": 0}}, "split.n: found 0, expected at least 1"),
        ({"objective": {"metric": "mae"}}, "objective.metric: found \"mae\""),
        ({"objective": {"metric": "rmse"}}, "sweep.models.als: found als, which predicts nothing"),
        ({"objective": {"metric": "rmse"}, "train": {"model": "popularity"}}, "train.model: found popularity"),
        ({"objective": {"metric": "logloss"}, "train": {"model": "svd"}}, "without the setting label"),
        ({"objective": {"metric": "logloss"}, "train": {"model": "svd"}, "label": "weight>=4"}, "needs prob"),
        ({"objective": {"metric": "rmse", "k": 10}}, "objective.k: found 10, which rmse does not take"),
        ({"objective": {"metric": "rmse", "relevant": "weight>=4"}}, "objective.relevant: found \"weight"),
        ({"objective": {"relevant": "rating>=4"}}, "objective.relevant: found \"rating>=4\""),
        ({"train": {"model": "nmf"}}, "train.model: found \"nmf\""),
        ({"train": {"model": "asl"}}, "did you mean als or ials?"),
        ({"train": {"params": {"factors": 8}}}, "train.params: found {\"factors\": 8} without train.model"),
        ({"train": {"model": "als", "params": {"factor": 8}}}, "train.params.factor: unknown parameter"),
        ({"train": {"model": "als", "params": {"factors": 8.5}}}, "train.params.factors: found 8.5"),
        ({"train": {"model": "als", "params": {"alpha": 0}}}, "expected a number, more than 0"),
        ({"train": {"model": "popularity", "params": {"k": 1}}}, "train.params.k: unknown parameter"),
        ({"sweep": {"models": {}}}, "sweep.models: found {}, expected at least one family"),
        ({"sweep": {"models": {"nmf": {}}}}, "sweep.models.nmf: found \"nmf\""),
        ({"train": {"model": "ials", "params": {"reg": 0}}}, "expected a number, more than 0"),
        ({"sweep": {"models": {"popularity": {}}}}, "sweep.models.popularity"),
        ({"sweep": {"trials": 0}}, "sweep.trials: found 0"),
        ({"gate": {"min_coverage": 1.5}}, "gate.min_coverage: found 1.5, expected at most 1.0"),
        ({"gate": {"min_change": -2}}, "gate.min_change: found -2"),
        ({"score": {"k": 0}}, "score.k: found 0"),
        ({"score": {"buckets": 0}}, "score.buckets: found 0"),
        ({"score": {"exclude_sene": True}}, "did you mean exclude_seen?"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": True}, "seed: found true"),
        ({"store": "s3://b/../x"}, "store: found \"s3://b/../x\"; a store is a local path or s3://"),
        ({"store": "gs://bucket"}, "a store is a local path or s3://bucket/prefix"),
        ({"store": ""}, "store: found"),
    ],
)  # fmt: skip
def test_what_this_version_does_not_do_is_refused_by_name(tmp_path, settings, said):
    """Nothing is read and ignored: each such key or value is an error that names it."""
    assert said in refusal(tmp_path, **settings)


def test_every_problem_of_a_file_is_listed(tmp_path):
    """Ten mistakes take one run to find, also inside one block and where a nested check fails."""
    models = {"als": {"factor": 1, "factors": [0, "x"], "reg": {"low": 2, "hihg": 1}}, "nmf": {}}
    message = refusal(
        tmp_path,
        sed=1,
        seed="x",
        sweep={"trials": 0, "models": models},
        train={"modle": "als", "params": {"a": 1}},
    )
    for key in (
        "sed", "seed", "sweep.trials", "sweep.models.als.factor", "sweep.models.als.factors[0]",
        "sweep.models.als.factors[1]", "sweep.models.als.reg.hihg", "sweep.models.als.reg.high",
        "sweep.models.nmf", "train.modle", "train.params",
    ):  # fmt: skip
        assert f"\n  {key}: " in message
    assert "11 problems" in message


def test_search_spaces_in_their_three_forms(tmp_path):
    """List, range and single value; a parameter that is not named keeps the family's own space."""
    space = {
        "factors": [8, 16],
        "reg": {"low": 1, "high": 2},
        "alpha": 3,
        "epochs": {"low": 1, "high": 9, "log": True},
    }
    models = load_job(written(tmp_path, sweep={"models": {"als": space}})).sweep.models
    assert models["als"] == {
        "factors": Choices((8, 16)),
        "reg": Range(1.0, 2.0),
        "alpha": Choices((3.0,)),
        "epochs": Range(1, 9, log=True),
    }
    assert isinstance(models["als"]["reg"].low, float)
    assert isinstance(models["als"]["epochs"].low, int)
    partly = load_job(written(tmp_path, sweep={"models": {"als": {"factors": 8}}})).sweep.models["als"]
    assert partly == {**FAMILIES["als"].own_space(), "factors": Choices((8,))}


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"factors": []}, "found [], expected at least one choice"),
        ({"factors": [8, 8]}, "stands twice"),
        ({"reg": [1, 1.0]}, "stands twice"),
        ({"factors": [8, True]}, "factors[1]: found true, expected a whole number, at least 1, at most 4096"),
        ({"factors": 9999}, "factors: found 9999"),
        ({"factors": None}, "factors: found null"),
        ({"factors": {"low": 1.5, "high": 4}}, "factors.low: found 1.5"),
        ({"reg": {"low": 2, "high": 2}}, "expected low below high"),
        ({"reg": {"low": 0, "high": 2, "log": True}}, "reg.low: found 0.0, expected more than 0"),
        ({"reg": {"low": 0.1, "high": float("inf")}}, "reg.high: found Infinity"),
        ({"reg": {"low": 0.1, "high": 1, "log": 1}}, "reg.log: found 1, expected true or false"),
        ({"reg": {"low": 0.1}}, "reg.high: missing"),
        ("x", "als: found \"x\", expected a mapping of parameters"),
    ],
)  # fmt: skip
def test_impossible_spaces_are_refused(tmp_path, space, said):
    """A space that no trial could draw from, or draws wrong values from, never reaches a sweep."""
    assert said in refusal(tmp_path, sweep={"models": {"als": space}})


def test_the_family_table_is_consistent():
    """Defaults and own spaces satisfy the bounds they are published with."""
    for family in FAMILIES.values():
        assert set(family.own_space()) == set(family.params) == set(family.defaults())
        for param in family.params.values():
            ends = (
                param.space.values
                if isinstance(param.space, Choices)
                else (param.space.low, param.space.high)
            )
            assert all(param.problem(value) is None for value in (param.default, *ends))
            assert all(type(value) is param.kind for value in (param.default, *ends))


def test_a_named_model_has_complete_params(tmp_path):
    """What train fits, and the run key hashes, are all parameters, not those somebody wrote down."""
    train = load_job(written(tmp_path, train={"model": "als", "params": {"reg": 1}})).train
    assert train.params == {"factors": 64, "reg": 1.0, "alpha": 1.0, "epochs": 15}
    assert isinstance(train.params["reg"], float)
    assert load_job(written(tmp_path, train={"model": "popularity"})).train.params == {}


def test_a_rule_is_kept_in_one_spelling(tmp_path):
    """Two spellings of one rule are one run."""
    jobs = [
        load_job(written(tmp_path, objective={"relevant": text})) for text in ("weight>=4", "weight >= 4.0")
    ]
    assert jobs[0].without_locations() == jobs[1].without_locations()
    assert jobs[0].objective.rule == Rule(">=", 4.0)
    assert load_job(written(tmp_path)).objective.rule is None


def test_relative_paths_start_at_the_folder_of_the_job_file(tmp_path, monkeypatch):
    """A job file means the same from every working directory."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    path = written(
        folder, store="out", events={"path": "../d/*.csv"}, items={"path": "/abs/i.csv", "title": "t"}
    )
    monkeypatch.chdir(tmp_path)
    for given in (path, Path("jobs/job.yaml"), "jobs/job.yaml"):
        job = load_job(given)
        assert job.store == str(folder / "out")
        assert job.events.path == str(folder / ".." / "d" / "*.csv")
        assert job.items.path == "/abs/i.csv"


def test_inside_a_ray_job_relative_paths_are_refused(tmp_path):
    """A job's working directory is thrown away, and with it whatever a relative path wrote."""
    message = refusal(
        tmp_path,
        inside_job=True,
        store="out",
        events={"path": "e.csv"},
        items={"path": "i.csv", "title": "t"},
    )
    for key in ("store", "events.path", "items.path"):
        assert f"\n  {key}: found the relative path" in message
    assert "temporary copy" in message
    assert load_job(written(tmp_path, store="~/s"), inside_job=True).store == str(tmp_path / "home" / "s")


def test_home_is_expanded_in_paths_only(tmp_path, monkeypatch):
    """`~` is the home folder where a value is a path and a plain character elsewhere."""
    job = load_job(written(tmp_path, store="~/s", events={"path": "~/e.csv", "columns": {"user": "~u"}}))
    assert job.store == str(tmp_path / "home" / "s")
    assert job.events.path == str(tmp_path / "home" / "e.csv")
    assert job.events.columns.user == "~u"


def test_the_default_store_follows_nightrank_home(tmp_path, monkeypatch):
    """Job files and commands without --config agree on where things are."""
    assert load_job(written(tmp_path)).store == default_store() == str(tmp_path / "home/.nightrank/store")
    monkeypatch.setenv("NIGHTRANK_HOME", "/srv/nightrank")
    assert load_job(written(tmp_path)).store == default_store() == "/srv/nightrank/store"
    assert nightrank_home() == Path("/srv/nightrank")


def test_the_run_key_knows_no_locations(tmp_path):
    """The same data and settings elsewhere are the same run; any other setting is another."""
    here = {"store": "/a", "events": {"path": "/a/e.csv"}, "items": {"path": "/a/i.csv", "title": "t"}}
    there = {"store": "/b", "events": {"path": "/b/e.csv"}, "items": {"path": "/b/i.csv", "title": "t"}}
    one, other = (load_job(written(tmp_path, **settings)).without_locations() for settings in (here, there))
    assert one == other
    assert not {"/a", "store", "path"} & set(str(one).replace("'", " ").split())
    changed = load_job(written(tmp_path, **here), overrides=["score.k=99"]).without_locations()
    assert changed != one
    assert one["items"]["title"] == "t"


def test_a_resolved_job_survives_json(tmp_path):
    """run.json keeps the settings; read back they are the same job."""
    sweep = {"models": {"als": {"reg": {"low": 0.1, "high": 1.0, "log": True}}}}
    job = load_job(
        written(tmp_path, sweep=sweep, train={"model": "als"}, objective={"relevant": "weight>=4"})
    )
    again = JobConfig.model_validate(json.loads(json.dumps(job.model_dump(mode="json"))))
    assert again == job
    assert json.loads(json.dumps(job.without_locations())) == job.without_locations()


def test_overrides_reach_every_part_of_a_job(tmp_path):
    """`--set` works on nested keys, free mappings and whole blocks; a wrong path names the nearest key."""
    overrides = [
        "score.k=7", "sweep.models.als.reg.low=0.01", "sweep.models.als.reg.high=0.1", "train.model=als",
        "train.params.factors=8", "store=/x", "items={path: /i.csv, title: name}",
    ]  # fmt: skip
    job = load_job(written(tmp_path), overrides=overrides)
    assert (job.score.k, job.store, job.items.title) == (7, "/x", "name")
    assert job.sweep.models["als"]["reg"] == Range(0.01, 0.1)
    assert job.train.params["factors"] == 8
    with pytest.raises(SettingsError, match=r"unknown key score\.kk; did you mean k"):
        load_job(written(tmp_path), overrides=["score.kk=7"])


def test_resolve_paths_leaves_the_job_alone(tmp_path):
    """Resolving makes a new job; the old one keeps its paths as written."""
    job = JobConfig.model_validate({"store": "s", "events": {"path": "e.csv"}, "split": ANY_SPLIT})
    resolved = resolve_paths(job, base=tmp_path)
    assert (resolved.store, resolved.events.path) == (str(tmp_path / "s"), str(tmp_path / "e.csv"))
    assert (job.store, job.events.path) == ("s", "e.csv")


@pytest.mark.parametrize(("kind", "cure"), [("leave_last", "per_user"), ("temporal", "random_mask")])
def test_a_split_by_time_needs_a_time_column(tmp_path, kind, cure):
    """A split by time over events without times is refused before anything is read, with both cures."""
    message = refusal(tmp_path, events={"path": "/e.csv"}, split={"kind": kind})
    assert f"split.kind: {kind} goes by time and there is no time column" in message
    assert "events.columns.time" in message
    assert cure in message


def test_a_split_is_dumped_as_it_may_be_written(tmp_path):
    """What a run records of its split loads again, holds no other kind's key, and the two shares are two runs."""
    keys = {
        "leave_last": {"n": 1},
        "per_user": {"n": 1},
        "temporal": {"share": 0.2},
        "random_mask": {"share": 0.2},
    }
    for kind, taken in keys.items():
        job = load_job(written(tmp_path, split={"kind": kind}))
        assert job.without_locations()["split"] == {"kind": kind, **taken}
        assert load_job(written(tmp_path, split=job.without_locations()["split"])).split == job.split
    other = load_job(written(tmp_path, split={"kind": "random_mask", "share": 0.3}))
    assert other.without_locations()["split"] == {"kind": "random_mask", "share": 0.3}


def test_how_pairs_combine_follows_the_families_unless_it_is_set(tmp_path, monkeypatch):
    """A family's own default holds where the job says nothing; the baseline, which looks at no weight, has none."""
    ratings = replace(FAMILIES["als"], combine="last")
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, "ratings": ratings})
    silent = load_job(written(tmp_path))
    assert (
        silent.combines(["als", "ials"]) == silent.combines(["popularity"]) == silent.combines([]) == ("sum",)
    )
    assert silent.combines(["ratings", "popularity"]) == ("last",)
    assert silent.combines(["ratings", "als"]) == ("sum", "last")
    said = load_job(written(tmp_path, events={**MOVIELENS, "combine": "max"}))
    assert said.combines(["ratings", "als"]) == ("max",)
    assert silent.families == ("als",)
    assert load_job(written(tmp_path, train={"model": "popularity"})).families == ("popularity",)
