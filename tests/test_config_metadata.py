"""`items`, `users` and `label` of a job file: what is taken, what is refused, and what a known data set brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightrank.config import families, spaces
from nightrank.config.families import FAMILIES, Choices, Family, Word
from nightrank.config.job import JobConfig, load_job
from nightrank.config.metadata import SideColumns
from nightrank.config.rules import Rule
from nightrank.errors import SettingsError

USERS = {"path": "/d/users.csv", "features": ["age", "city"]}
ITEMS = {"path": "/d/items.csv", "features": ["genres"]}


def job(tmp_path: Path, *, inside_job: bool = False, **settings: Any) -> JobConfig:
    path = tmp_path / "job.yaml"
    given = {"store": "/s", "events": {"path": "/d/e.csv"}, "split": {"kind": "per_user"}} | settings
    path.write_text(yaml.safe_dump(given))
    return load_job(path, inside_job=inside_job)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"users": {"path": "u"}}, "users.features: missing"),
        ({"users": {"features": ["age"]}}, "users.path: missing"),
        ({"users": {"path": "u", "features": []}}, "users.features: found [], expected at least one column"),
        ({"users": {"path": "u", "features": ["a", "b", "a"]}}, 'users.features[2]: found "a" a second time'),
        ({"users": {"path": "u", "features": ["user_id"]}}, 'users.features[0]: found "user_id", which is the col'),
        ({"users": {"path": "u", "features": [""]}}, "users.features[0]: found \"\", expected a text that is not"),
        ({"users": {"path": "u", "features": "age"}}, 'users.features: found "age", expected a list'),
        ({"users": {"path": "s3://u", "features": ["a"]}}, "users.path: found"),
        ({"users": {"path": "u", "features": ["a"], "separator": ""}}, "users.separator: found"),
        ({"users": {"path": "u", "features": ["a"], "title": "t"}}, "users.title: unknown key"),
        ({"items": {"path": "i"}}, "items: found neither title, categories nor features"),
        ({"items": {"path": "i", "features": ["g", "g"]}}, 'items.features[1]: found "g" a second time'),
        ({"items": {"path": "i", "features": ["g", "item_id"]}}, 'items.features[1]: found "item_id"'),
        ({"items": {"path": "i", "title": "t", "separator": ";"}}, "without items.categories and items.features"),
        ({"label": "rating>=4"}, 'label: found "rating>=4"'),
        ({"label": 4}, "label: found 4, expected a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    """Protects whoever writes the file: the message names the key, what was found and what to do."""
    with pytest.raises(SettingsError) as refused:
        job(tmp_path, **settings)
    assert said in str(refused.value)


def test_the_id_is_refused_as_a_feature_whatever_it_is_called(tmp_path: Path) -> None:
    """The ids are called as in the events: another name does not hide them."""
    events = {"path": "/d/e.csv", "columns": {"user": "customer"}}
    with pytest.raises(SettingsError, match=r"users\.features\[1\]: found \"customer\""):
        job(tmp_path, events=events, users=USERS | {"features": ["age", "customer"]})
    assert job(tmp_path, events=events, users=USERS | {"features": ["user_id"]}).users is not None


def test_features_need_neither_title_nor_categories(tmp_path: Path) -> None:
    """A table of features alone is a table; the separator is then theirs."""
    found = job(tmp_path, items=ITEMS | {"separator": ";"}, users=USERS)
    assert found.item_columns == SideColumns("item_id", ("genres",), ";")
    assert found.user_columns == SideColumns("user_id", ("age", "city"), "|")


def test_what_is_not_named_is_not_read(tmp_path: Path) -> None:
    """A table of titles has no features, and a job without tables none at all."""
    assert job(tmp_path, items={"path": "/i", "title": "t"}).item_columns is None
    assert (job(tmp_path).item_columns, job(tmp_path).user_columns) == (None, None)


def test_a_known_data_set_brings_its_features_unless_the_job_names_its_own(tmp_path: Path) -> None:
    """MovieLens needs no table named; a table that is named stands alone."""
    events = {"dataset": "movielens-100k"}
    plain = job(tmp_path, events=events)
    assert plain.user_columns == SideColumns("user_id", ("age", "gender", "occupation"))
    assert plain.item_columns == SideColumns("item_id", ("genres",))
    own = job(tmp_path, events=events, users=USERS, items={"path": "/i", "title": "t"})
    assert own.user_columns == SideColumns("user_id", ("age", "city"))
    assert own.item_columns is None


def test_tables_are_places_and_features_are_settings(tmp_path: Path) -> None:
    """Paths are made absolute, refused in a Ray job where relative, and no part of the run key; features are."""
    here = job(tmp_path, users=USERS | {"path": "u.csv"}, items=ITEMS | {"path": "i.csv"})
    assert here.users is not None
    assert here.users.path == str(tmp_path / "u.csv")
    there = job(tmp_path, users=USERS, items=ITEMS)
    assert here.without_locations() == there.without_locations()
    assert here.without_locations()["users"] == {"features": ["age", "city"], "separator": "|"}
    other = job(tmp_path, users=USERS | {"features": ["age"]}, items=ITEMS)
    assert other.without_locations() != there.without_locations()
    assert JobConfig.model_validate(json.loads(json.dumps(here.model_dump(mode="json")))) == here
    with pytest.raises(SettingsError, match=r"users\.path: found the relative path"):
        job(tmp_path, inside_job=True, users=USERS | {"path": "u.csv"})


def test_a_label_is_kept_in_one_spelling(tmp_path: Path) -> None:
    """Two spellings of one rule are one run."""
    one, other = (job(tmp_path, label=text) for text in ("weight>=4", "weight >= 4.0"))
    assert one.without_locations() == other.without_locations()
    assert one.label_rule == Rule(">=", 4.0)
    assert job(tmp_path).label_rule is None


@pytest.fixture
def _with_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of this test that learns ratings or classes, beside the real ones."""
    task = Word(("rating", "label"), "rating", Choices(("rating",)))
    table = {**FAMILIES, "classes": Family({"task": task})}
    for module in (families, spaces):
        monkeypatch.setattr(module, "FAMILIES", table)


@pytest.mark.usefixtures("_with_classes")
def test_a_task_of_classes_needs_the_rule_that_makes_them(tmp_path: Path) -> None:
    """Better before the night than in the first fit: named by the family's own key, in train and in the sweep."""
    train = {"train": {"model": "classes", "params": {"task": "label"}}}
    for settings, key in (
        (train, "train.params.task"),
        ({"sweep": {"models": {"als": {}, "classes": {"task": "label"}}}}, "sweep.models.classes.task"),
        ({"sweep": {"models": {"classes": {"task": ["rating", "label"]}}}}, "sweep.models.classes.task"),
    ):
        with pytest.raises(SettingsError) as refused:
            job(tmp_path, **settings)
        assert f'{key}: found "label" without the setting label' in str(refused.value)
        assert job(tmp_path, label="weight>=4", **settings).label == "weight>=4"
    searched = {"sweep": {"models": {"classes": {"task": "label"}}}}
    assert job(tmp_path, train={"model": "als"}, **searched).label is None  # the sweep is skipped
    assert job(tmp_path, sweep={"models": {"classes": {}}}).label is None


@pytest.mark.parametrize(
    ("space", "found"),
    [
        ({"negatives": 3}, 'found 3 beside task "rating"'),
        ({"negatives": [0, 2]}, 'found [0, 2] beside task "rating"'),
        ({"negatives": {"low": 1, "high": 5}}, 'found {"low": 1, "high": 5, "log": false} beside'),
        ({"negatives": [0, 2], "task": ["rating", "label"]}, 'found [0, 2] beside task ["rating", "label"]'),
    ],
)
def test_a_parameter_of_another_task_is_refused_by_name(
    tmp_path: Path, space: dict[str, Any], found: str
) -> None:
    """Nothing is read and ignored: negatives are of task label, in train as in a sweep."""
    with pytest.raises(SettingsError) as refused:
        job(tmp_path, label="weight>=4", sweep={"models": {"fm": space}})
    assert "sweep.models.fm.negatives: " + found in str(refused.value)
    assert 'only task "label" takes more than 0: set task: label' in str(refused.value)
    value = space["negatives"]
    if isinstance(value, int):
        with pytest.raises(SettingsError, match=r"train\.params\.negatives: found 3 beside task"):
            job(tmp_path, label="weight>=4", train={"model": "fm", "params": {"negatives": value}})
    own = {"models": {"fm": {**space, "task": "label"}}}
    assert job(tmp_path, label="weight>=4", sweep=own).sweep.models["fm"]["negatives"] != Choices((0,))
