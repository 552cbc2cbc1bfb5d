"""docs/job-file.md and the figures of cluster.yaml: keys, defaults, bounds, families, examples, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightrank.config.cluster import ActorSpec, ActorTable, load_cluster
from nightrank.config.families import FAMILIES, Choices, Param, Word
from nightrank.config.job import JobConfig, load_job
from nightrank.config.locations import DEFAULT_STORE
from nightrank.config.reading import parse_yaml
from nightrank.config.spaces import parse_models
from nightrank.config.split import TAKES
from nightrank.config.strict import StrictModel
from nightrank.errors import SettingsError
from pages import DATA, JOB, NIGHT, OPERATIONS, ROOT, TEXTS, Row, blocks, column, rows_of, written

# The job file


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every setting; a mapping that may be left out stands beside its own keys."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if is_model(one)]
        if not inner or type(None) in get_args(field.annotation):
            yield prefix + name, field
        for one in inner:
            yield from leaves(one, f"{prefix}{name}.")


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrictModel)


KEYS = dict(leaves(JobConfig))


def test_every_key_of_the_job_file_is_documented_and_no_other() -> None:
    """A reader finds each setting in the tables, and none that would be refused."""
    assert set(column(JOB, "key", "type", "default")) == set(KEYS)


@pytest.mark.parametrize("row", rows_of(JOB, "key", "type", "default"), ids=lambda row: str(row["key"]))
def test_a_documented_default_is_the_real_one(row: Row) -> None:
    """What happens where a key is left out is what the page says."""
    field = KEYS[row["key"]]
    if row["key"] == "store":
        assert row["default"] == DEFAULT_STORE
    elif row["key"] == "sweep.models":
        assert parse_models(parse_yaml(row["default"])) == field.get_default(call_default_factory=True)
    elif field.is_required():
        assert row["default"] == "required"
    else:
        assert parse_yaml(row["default"]) == field.get_default(call_default_factory=True)


@pytest.mark.parametrize("row", rows_of(JOB, "key", "type", "default"), ids=lambda row: str(row["key"]))
def test_documented_bounds_and_choices_are_the_real_ones(row: Row) -> None:
    """A value that the page allows is not refused, and the reverse."""
    bounds, choices = constraints(KEYS[row["key"]])
    said = re.findall(r"(?:at least|at most|more than|less than) -?[0-9.]+", row["allowed"])
    assert sorted(said) == sorted(bounds)
    if choices:
        assert set(re.findall(r"[\w-]+", row["allowed"])) == choices


def constraints(field: FieldInfo) -> tuple[list[str], set[str]]:
    """The numeric bounds of a field or of what it holds, in our words, and its choices."""
    words = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("more than", "gt"),
        annotated_types.Le: ("at most", "le"),
        annotated_types.Lt: ("less than", "lt"),
    }
    bounds = []
    choices: set[str] = set()
    pending: list[Any] = [field.annotation, *field.metadata]
    while pending:
        one = pending.pop()
        if isinstance(one, FieldInfo):
            pending += one.metadata
        elif type(one) in words:
            word, name = words[type(one)]
            bounds.append(f"{word} {getattr(one, name):g}")
        elif get_origin(one) is Literal:
            choices |= set(get_args(one))
        else:
            pending += [*get_args(one), *getattr(one, "__metadata__", ())]
    return list(dict.fromkeys(bounds)), choices


def test_families_parameters_defaults_and_spaces_are_documented() -> None:
    """The table of families is the table that the settings are checked against."""

    def space(param: Param | Word) -> Any:
        if isinstance(param.space, Choices):
            return list(param.space.values)
        return {"low": param.space.low, "high": param.space.high, "log": param.space.log}

    def allowed(param: Param | Word) -> str:
        return (
            f"word, {param.expected()}" if isinstance(param, Word) else param.expected().replace("a ", "", 1)
        )

    real = {
        (family, name): (allowed(param), parse_yaml(str(param.default)), space(param))
        for family, spec in FAMILIES.items()
        for name, param in spec.params.items()
    }
    real |= {(family, ""): None for family, spec in FAMILIES.items() if not spec.params}
    said = {
        (row["family"], row["parameter"]): (
            f"{row['type']}, {row['allowed']}",
            parse_yaml(row["default"]),
            parse_yaml(row["own search space"]),
        )
        if row["parameter"]
        else None
        for row in rows_of(JOB, "family", "parameter")
    }
    assert said == real


def test_how_pairs_combine_is_documented_for_every_family_that_looks_at_weights() -> None:
    """What `events.combine: null` means for a family is what the page says."""
    said = {row["family"]: row["combine"] for row in rows_of(DATA, "family", "combine")}
    assert said == {name: family.combine for name, family in FAMILIES.items() if family.searchable}


def test_what_each_kind_of_split_takes_and_asks_is_documented() -> None:
    """A reader finds every kind explained, beside the key that it takes."""
    assert column(NIGHT, "kind", "holds out") == list(TAKES)
    for name in ("n", "share"):
        (row,) = (row for row in rows_of(JOB, "key", "type", "default") if row["key"] == f"split.{name}")
        assert set(re.findall(r"`(\w+)`", row["meaning"])) == {
            kind for kind, taken in TAKES.items() if taken == name
        }


EXAMPLES = [(name, text) for name, page in TEXTS.items() for text in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "text"), EXAMPLES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXAMPLES)]
)
def test_every_yaml_example_is_a_job_file_that_loads(page: str, text: str, tmp_path: Path) -> None:
    """What a reader copies is accepted as it stands."""
    load_job(written(tmp_path, text))


def test_the_full_example_names_every_key(tmp_path: Path) -> None:
    """Nothing is missing from the example that says it has every key (two keys exclude another)."""
    raw = yaml.safe_load(blocks(JOB, "yaml")[2])

    def given(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in mapping.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from given(value, f"{prefix}{name}.")

    assert set(KEYS) - set(given(raw)) == {"events.dataset", "split.share"}


def test_the_error_message_of_the_example_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message on the page is what the file above it gets."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, blocks(JOB, "yaml wrong")[0])
    with pytest.raises(SettingsError) as refused:
        load_job(Path("job.yaml"))
    assert blocks(JOB, "text") == [f"nightrank: {refused.value}\n"]


# The figures of cluster.yaml


def test_the_actors_are_those_of_cluster_yaml() -> None:
    """Kinds, figures and their shipped values are those that nightrank reads."""
    actors = load_cluster(ROOT / "cluster.yaml")
    rows = rows_of(OPERATIONS, "kind", "what it is")
    assert [row["kind"] for row in rows] == list(ActorTable.model_fields)
    assert column(OPERATIONS, "figure") == list(ActorSpec.model_fields)
    for row in rows:
        said = {name: parse_yaml(row[name]) for name in ActorSpec.model_fields}
        assert said == actors.specs()[row["kind"]].model_dump()
