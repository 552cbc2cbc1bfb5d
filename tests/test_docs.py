"""The pages of docs/ against the code they describe: keys, defaults, commands, routes, files, numbers, links.

Whatever a page states in a table or an example is read out of the page here and compared with the product, in
both directions where a list claims to be complete.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
import click
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import made
from made import Published
from nightrank import errors
from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.batch.nightly import summary
from nightrank.batch.trials import leaderboard
from nightrank.cli.app import app
from nightrank.config.cluster import ActorSpec, ActorTable, load_cluster
from nightrank.config.families import FAMILIES, Choices, Param
from nightrank.config.job import JobConfig, load_job
from nightrank.config.locations import DEFAULT_STORE
from nightrank.config.reading import parse_yaml
from nightrank.config.spaces import parse_models
from nightrank.config.strict import StrictModel
from nightrank.data.counts import Counts
from nightrank.data.events import read_events, weighted
from nightrank.data.ids import bucket_of, hash_id
from nightrank.data.movielens import URL
from nightrank.data.report import Report
from nightrank.data.tables import SUPPORTED
from nightrank.errors import NightrankError, SettingsError
from nightrank.quality.gates import QualityDecision, StructureDecision
from nightrank.release.files import FileRecord
from nightrank.release.manifest import Manifest
from nightrank.service import schemas
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NAMES = ("index", "job-file", "data", "night", "release", "http", "operations", "commands")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
TEXTS = {**PAGES, **{name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CHANGELOG.md")}}
JOB, DATA, NIGHT, RELEASE = (PAGES[f"{name}.md"] for name in ("job-file", "data", "night", "release"))
HTTP, OPERATIONS, COMMANDS = (PAGES[f"{name}.md"] for name in ("http", "operations", "commands"))
Row = dict[str, str]


# Reading the pages


def tables(page: str) -> Iterator[list[Row]]:
    """Every table of a page, a row as header -> cell; cells without their code ticks where they are one code."""
    lines = page.splitlines()
    for start, line in enumerate(lines):
        if not re.fullmatch(r"\|(-+\|)+", line.replace(" ", "")) or start == 0:
            continue
        header = cells(lines[start - 1])
        rows = []
        for row in lines[start + 1 :]:
            if not row.startswith("|"):
                break
            assert len(cells(row)) == len(header), f"a row with other columns than its table: {row}"
            rows.append(dict(zip(header, cells(row), strict=True)))
        yield rows


def cells(line: str) -> list[str]:
    parts = [part.strip().replace(r"\|", "|") for part in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
    return [re.sub(r"^`([^`]*)`$", r"\1", part) for part in parts]


def rows_of(page: str, *header: str) -> list[Row]:
    """All rows of the tables of a page whose header begins with these cells; there must be some."""
    found = [row for table in tables(page) if tuple(table[0])[: len(header)] == header for row in table]
    assert found, f"no table {header}"
    return found


def column(page: str, *header: str) -> list[str]:
    """The first column of those rows, in which nothing may stand twice."""
    found = [row[header[0]] for row in rows_of(page, *header)]
    assert len(set(found)) == len(found)
    return found


def section(page: str, title: str) -> str:
    """A page from a heading to the next of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,9}} |\Z)", page, re.M | re.S)
    assert match is not None, f"no section {title}"
    return match[2]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page with exactly this word, or words, behind the fence."""
    return [
        body for info, body in re.findall(r"^```([^\n]*)\n(.*?)^```$", page, re.M | re.S) if info == language
    ]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


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


def models(model: type[StrictModel] = JobConfig, prefix: str = "") -> Iterator[tuple[str, type[StrictModel]]]:
    yield prefix, model
    for name, field in model.model_fields.items():
        for one in (field.annotation, *get_args(field.annotation)):
            if is_model(one):
                yield from models(one, f"{prefix}{name}.")


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
    said = re.findall(r"(?:at least|at most|more than) -?[0-9.]+", row["allowed"])
    assert sorted(said) == sorted(bounds)
    if choices:
        assert set(re.findall(r"[\w-]+", row["allowed"])) == choices


def constraints(field: FieldInfo) -> tuple[list[str], set[str]]:
    """The numeric bounds of a field or of what it holds, in our words, and its choices."""
    words = {
        annotated_types.Ge: ("at least", "ge"),
        annotated_types.Gt: ("more than", "gt"),
        annotated_types.Le: ("at most", "le"),
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


def test_keys_refused_by_name_are_documented() -> None:
    """The list of keys that are "not in this version" is that of the models."""
    refused = {prefix + name for prefix, model in models() for name in model.not_yet}
    assert set(column(JOB, "key refused")) == refused


def test_families_parameters_defaults_and_spaces_are_documented() -> None:
    """The table of families is the table that the settings are checked against."""

    def space(param: Param) -> Any:
        if isinstance(param.space, Choices):
            return list(param.space.values)
        return {"low": param.space.low, "high": param.space.high, "log": param.space.log}

    real = {
        (family, name): (param.expected().replace("a ", "", 1), parse_yaml(str(param.default)), space(param))
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


EXAMPLES = [(name, text) for name, page in TEXTS.items() for text in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "text"), EXAMPLES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXAMPLES)]
)
def test_every_yaml_example_is_a_job_file_that_loads(page: str, text: str, tmp_path: Path) -> None:
    """What a reader copies is accepted as it stands."""
    load_job(written(tmp_path, text))


def test_the_full_example_names_every_key(tmp_path: Path) -> None:
    """Nothing is missing from the example that says it has every key (a data set excludes a path)."""
    raw = yaml.safe_load(blocks(JOB, "yaml")[2])

    def given(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in mapping.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from given(value, f"{prefix}{name}.")

    assert set(KEYS) - set(given(raw)) == {"events.dataset"}


def test_the_error_message_of_the_example_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message on the page is what the file above it gets."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, blocks(JOB, "yaml wrong")[0])
    with pytest.raises(SettingsError) as refused:
        load_job(Path("job.yaml"))
    assert blocks(JOB, "text") == [f"nightrank: {refused.value}\n"]


# Data


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The worked example of data.md on disk; the job file beside its events."""
    (tmp_path / "events.csv").write_text(blocks(DATA, "csv")[0], encoding="utf-8")
    return written(tmp_path, blocks(DATA, "yaml")[0])


def test_what_each_event_counts_is_recomputed(example: Path) -> None:
    """weight x type weight x decay, as the product computes it, is the last column of the table."""
    job = load_job(example)
    roles = job.events.columns.model_dump()
    table = read_events([Path(str(job.events.path))], **roles).table
    table = weighted(table, type_weights=job.events.type_weights, half_life_days=job.events.half_life_days)
    said = rows_of(DATA, "user", "item", "weight")
    assert [(row["user"], int(row["item"]), float(row["counts"])) for row in said] == [
        (row["user"], row["item"], row["weight"]) for row in table.to_pylist()
    ]
    for row in said:
        product = float(row["weight"]) * float(row["type weight"]) * float(row["decay"])
        assert product == float(row["counts"])


@pytest.mark.parametrize("how", ["sum", "max", "last"])
def test_what_each_pair_weighs_is_recomputed(example: Path, how: str) -> None:
    """Combining the example's events gives the numbers of the table, and drops one pair of weight zero."""
    job = load_job(example, overrides=[f"events.combine={how}"])
    found = load_interactions(job, find_inputs(job))
    matrix = found.user_items.tocoo()
    pairs = {
        (found.user_ids[int(user)], found.item_ids[int(item)]): float(weight)
        for user, item, weight in zip(matrix.row, matrix.col, matrix.data, strict=True)
    }
    said = {(row["user"], int(row["item"])): float(row[how]) for row in rows_of(DATA, "user", "item", "sum")}
    assert pairs == said
    assert found.n_zero_pairs == 1


def test_the_formats_the_data_source_and_a_refusal_are_the_real_ones(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The list of formats, the publisher's address and the message of a negative weight are the product's."""
    assert tuple(column(DATA, "name ends with")) == SUPPORTED
    assert URL in DATA
    monkeypatch.chdir(tmp_path)
    Path("events.csv").write_text("user_id,item_id,weight\n1,3,1\n2,3,-1\n")
    with pytest.raises(errors.DataError) as refused:
        read_events(
            [Path("events.csv")], user="user_id", item="item_id", weight="weight", time=None, type=None
        )
    assert f"{refused.value}\n" in blocks(DATA, "text")


@pytest.mark.parametrize("row", rows_of(DATA, "min_events_per_item"), ids=str)
def test_what_a_minimum_of_events_leaves_is_recomputed(example: Path, row: Row) -> None:
    """The pairs left and the counts of the page are those of the product."""
    names = ("min_events_per_item", "min_events_per_user")
    job = load_job(example, overrides=[f"events.{name}={row[name]}" for name in names])
    found = load_interactions(job, find_inputs(job))
    users, items = found.user_items.nonzero()
    pairs = [f"{found.user_ids[int(u)]} {found.item_ids[int(i)]}" for u, i in zip(users, items, strict=True)]
    assert row["pairs left"] == ", ".join(pairs)
    for name in ("rare_items", "rare_item_events", "rare_users", "rare_user_events"):
        assert getattr(found.counts, name) == int(row[name])


def test_the_example_of_a_frame_runs(tmp_path: Path) -> None:
    """The lines on tables in memory hold their own assertions, and they are true."""
    (code,) = blocks(DATA, "python")
    assert "assert" in code
    (tmp_path / "frame.py").write_text(code)
    runpy.run_path(str(tmp_path / "frame.py"))


def test_every_count_of_the_events_is_documented() -> None:
    """Whatever is counted is explained, and nothing that is not."""
    said = {name for cell in column(DATA, "count", "what it is") for name in re.findall(r"\w+", cell)}
    assert said == {one.name for one in fields(Counts)}


def test_the_report_of_the_data_check_is_documented_key_by_key() -> None:
    """Scripts find every key and every warning of the check explained, and no other."""
    page = section(DATA, "Checking a job's events")
    names = [name for cell in column(page, "key", "what it is") for name in re.findall(r"\w+", cell)]
    assert names == [one.name for one in fields(Report)]
    code = (ROOT / "platform/nightrank/data/doubts.py").read_text()
    found = set(re.findall(r'Doubt\(\s*f?"([\w{}]+)"', code))
    real = {
        name.replace("{name}", kind).replace("{column}", kind) for name in found for kind in ("user", "item")
    }
    said = {name for cell in column(page, "warning", "when") for name in re.findall(r"\w+", cell)}
    assert said == real


# The night and the release


@pytest.fixture(scope="module", params=["int64", "string"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One release for each type of id; its tests only read."""
    kind = request.param
    return made.published_release(
        tmp_path_factory.mktemp(kind),
        events=made.make_events(users=kind, items=kind),
        items=made.make_items(items=kind),
    )


def test_the_last_line_of_a_night_has_the_documented_keys(published: Published) -> None:
    """Scripts that read the JSON object of a job find each key of the table, in the example too."""
    real = list(summary(published.run))
    assert column(NIGHT, "key", "meaning") == real
    example = json.loads(blocks(NIGHT, "json")[0])
    assert list(example) == real
    assert list(example["counts"]) == list(summary(published.run)["counts"])


def test_the_columns_of_the_leaderboard_are_documented() -> None:
    """Names and types are those of leaderboard.parquet."""
    schema = leaderboard([], metric="ndcg@10").schema
    real = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    untyped = {"trial", "family", "params", "metric"}  # an empty table cannot tell: they are texts
    assert column(NIGHT, "column", "type") == list(real)
    for row in rows_of(NIGHT, "column", "type"):
        assert row["type"] == ("string" if row["column"] in untyped else real[row["column"]])


def test_the_folder_of_a_run_is_documented(published: Published) -> None:
    """Whatever a run leaves at its top is explained."""
    found = {path.name for path in published.run.path("run.json").parent.iterdir()}
    said = {name.rstrip("/") for name in column(NIGHT, "name", "what it is")}
    assert {"run.json", "model", "buckets", "stages"} <= found <= said


def test_exit_codes_are_those_of_the_errors() -> None:
    """Every code that a command can end with is in the table, and no other."""
    kinds = [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, NightrankError)
    ]
    real = {str(kind.exit_code) for kind in kinds} | {"0", "130"}
    assert set(column(NIGHT, "code", "meaning")) == real
    assert "INTERRUPTED = 130" in (ROOT / "platform/nightrank/cli/app.py").read_text()


@pytest.mark.parametrize("table", ["recommendations/", "similar_items/", "popular.parquet", "items.parquet"])
def test_parquet_columns_are_documented(published: Published, table: str) -> None:
    """Names, order, types and null of each table are those of the files, also its sort order and metadata."""
    name = table if table.endswith(".parquet") else f"{table}*.parquet"
    for path in published.folder.glob(name):
        schema = pq.read_schema(path)
        said = rows_of(section(RELEASE, table), "column", "type", "null")
        assert [row["column"] for row in said] == schema.names
        for row, field in zip(said, schema, strict=True):
            kind = "list of string" if str(field.type).startswith("list") else str(field.type)
            assert kind in row["type"].split(" or ")
            assert row["null"] == ("yes" if field.nullable else "no")
        keys = {row["key"] for row in rows_of(RELEASE, "key", "value") if is_in(table, row["in"])}
        assert {key.decode() for key in schema.metadata} == keys


def is_in(table: str, said: str) -> bool:
    return said == "all four" or table.rstrip("/") in said.split(", ")


def test_the_manifest_is_documented_key_by_key(published: Published) -> None:
    """Every key of manifest.json and of its gates, counts, versions and file records is on the page."""
    manifest = published.release.manifest
    page = section(RELEASE, "manifest.json")
    assert column(page, "key", "meaning") == list(Manifest.model_fields)
    rows = {
        row["key"]: set(re.findall(r"`(\w+)`", row["meaning"])) for row in rows_of(page, "key", "meaning")
    }
    assert rows["counts"] == set(manifest.counts)
    assert rows["versions"] == set(manifest.versions)
    assert rows["files"] == set(FileRecord.model_fields)
    assert rows["gates"] == set(manifest.gates)
    quality = {field.name for field in fields(QualityDecision)} | {"unknown_users"}
    assert set(column(page, "key of quality")) == quality
    assert set(column(page, "key of structure")) == {field.name for field in fields(StructureDecision)}
    assert set(manifest.gates["structure"]) == set(column(page, "key of structure"))


def test_arrays_are_documented_file_by_file(published: Published) -> None:
    """Each file in arrays/ is in the table with its dtype and shape, and each row of the table is a file."""
    card, job = published.release.model.card, published.run.job.score
    sizes: dict[str, Any] = {"n_users": card.n_users, "n_items": card.n_items, "pairs": card.n_pairs}
    sizes |= {"n_buckets": card.n_buckets, "d": card.params["factors"]}
    sizes |= {"k": job.k, "similar_items_k": job.similar_items_k}
    said = {row["file"]: row for row in rows_of(section(RELEASE, "arrays/"), "file", "dtype", "shape")}
    folder = published.folder / "arrays"
    seen = set()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        row = re.sub(r"-[0-9]{5}-of-[0-9]{5}", "-*", path.relative_to(folder).as_posix())
        assert row in said
        seen.add(row)
        if path.suffix != ".npy":
            continue
        array = np.load(path, allow_pickle=False)
        assert str(array.dtype) in said[row]["dtype"].split(" or ")
        shape = said[row]["shape"].strip("()").split(", ")
        assert len(shape) == array.ndim
        for words, length in zip(shape, array.shape, strict=True):
            name, _, more = words.partition(" + ")
            assert name not in sizes or length == sizes[name] + int(more or 0)
    stems = ("user_ids", "item_ids")
    other = {f"{stem}.npy" for stem in stems}
    if card.user_id_type == "int64":
        other = {f"{stem}.{part}.npy" for stem in stems for part in ("offsets", "bytes")}
    assert set(said) - seen == other


def test_the_layout_lists_what_is_in_a_release(published: Published) -> None:
    """The picture of the folder names everything at the top of a release."""
    found = {path.name + "/" * path.is_dir() for path in published.folder.iterdir()}
    drawn = re.findall(r"^    ([\w.-]+/?)", blocks(RELEASE, "text")[0], re.M)
    assert {name if "/" not in name else name.split("/")[0] + "/" for name in drawn} == found


@pytest.mark.parametrize("row", rows_of(RELEASE, "id", "type", "xxh64"), ids=str)
def test_the_worked_buckets_are_recomputed(row: Row) -> None:
    """Whoever looks a user's file up by the page's rule finds the file that nightrank writes."""
    value = int(row["id"]) if row["type"] == "int64" else row["id"]
    assert hash_id(value) == int(row["xxh64"])
    assert [bucket_of(value, n) for n in (4, 64)] == [int(row["bucket of 4"]), int(row["bucket of 64"])]


def test_the_python_example_of_buckets_runs(tmp_path: Path) -> None:
    """The lines that a reader copies hold their own assertion, and it is true."""
    (code,) = blocks(RELEASE, "python")
    assert "assert" in code
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))


SQL = blocks(RELEASE, "sql")


@pytest.mark.parametrize("query", SQL, ids=range(len(SQL)))
def test_the_sql_of_the_page_answers(published: Published, query: str) -> None:
    """Each query runs on a release as it stands and finds rows."""
    assert "'RELEASE/" in query
    if published.release.model.card.user_id_type == "string":
        query = query.replace("user_id = 45", "user_id = 'id-0010'")
    assert duckdb.sql(query.replace("'RELEASE/", f"'{published.folder}/").rstrip("\n;")).fetchall()


# HTTP


def test_the_routes_are_those_of_openapi(published: Published) -> None:
    """Every route with its query parameters is in the table, and each has an example."""
    paths = build_api(ReleaseHolder(published.store)).openapi()["paths"]
    real = {
        path: {one["name"] for one in calls["get"].get("parameters", []) if one["in"] == "query"}
        for path, calls in paths.items()
    }
    assert all(set(calls) == {"get"} for calls in paths.values())
    said = {
        row["route"]: set(re.findall(r"\w+", row["parameters"]))
        for row in rows_of(HTTP, "route", "parameters")
    }
    assert said == real
    assert set(re.findall(r"^### GET (\S+)$", HTTP, re.M)) == set(real)


SHAPES: Sequence[tuple[str, type[BaseModel]]] = (
    ("GET /v1/users/{user_id}/recommendations", schemas.Recommendations),
    ("GET /v1/users/{user_id}/history", schemas.History),
    ("GET /v1/items/{item_id}/similar", schemas.SimilarItems),
    ("GET /v1/releases", schemas.Releases),
    ("GET /v1/releases/current", schemas.CurrentRelease),
    ("GET /healthz", schemas.Health),
    ("GET /readyz", schemas.Ready),
    ("Errors", schemas.Error),
)


@pytest.mark.parametrize(("heading", "model"), SHAPES, ids=[heading for heading, _ in SHAPES])
def test_the_example_answers_have_the_real_shape(heading: str, model: type[BaseModel]) -> None:
    """No field of an example is invented, and none that always comes is missing."""
    (text,) = blocks(section(HTTP, heading), "json")
    assert model.model_validate_json(text).model_dump(mode="json", exclude_unset=True) == json.loads(text)


def test_sources_are_those_of_the_schema() -> None:
    """Every `source` that an answer can have is explained."""
    real = set(get_args(schemas.Recommendations.model_fields["source"].annotation))
    assert set(column(HTTP, "source", "when")) == real


def test_the_error_codes_are_those_in_the_code() -> None:
    """The table has every (status, code) that the service can answer, and no other."""
    said = {(row["status"], row["code"]) for row in rows_of(HTTP, "status", "code")}
    assert said == set(codes_in_the_code())


def codes_in_the_code() -> Iterator[tuple[str, str]]:
    """(status, code) of each RequestError and _error; of `_http`, those of its table and its fallback."""
    for path in sorted((ROOT / "platform/nightrank/service").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "_http":
                (table,) = [one for one in ast.walk(node) if isinstance(one, ast.Dict) and one.keys]
                for key, value in ast.literal_eval(ast.unparse(table)).items():
                    yield str(key), value
                (get,) = [one for one in ast.walk(node) if is_call(one, "get")]
                yield "any", ast.literal_eval(ast.unparse(get.args[1]))
            if is_call(node, "RequestError", "_error") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.args[1].value


def is_call(node: ast.AST, *names: str) -> Any:
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "id", getattr(node.func, "attr", None)) in names


# Operating and commands


def test_the_actors_are_those_of_cluster_yaml() -> None:
    """Kinds, figures and their shipped values are those that nightrank reads."""
    actors = load_cluster(ROOT / "cluster.yaml")
    rows = rows_of(OPERATIONS, "kind", "what it is")
    assert [row["kind"] for row in rows] == list(ActorTable.model_fields)
    assert column(OPERATIONS, "figure") == list(ActorSpec.model_fields)
    for row in rows:
        said = {name: parse_yaml(row[name]) for name in ActorSpec.model_fields}
        assert said == actors.specs()[row["kind"]].model_dump()


def commands(command: Any = None, path: str = "nightrank") -> Iterator[tuple[str, click.Command]]:
    """(full name, command) of everything that can be called; hidden ones are not for users."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")


REAL = dict(commands())


def spelled(command: click.Command) -> set[str]:
    """The options of a command as one types them, and its arguments in capitals."""
    return {
        str(one.name).upper() if one.param_type_name == "argument" else max(one.opts, key=len)
        for one in command.params
        if one.name != "help"
    }


def test_every_command_is_documented_and_no_other() -> None:
    """commands.md has a section for each command of the Typer application."""
    assert sorted(re.findall(r"^### (nightrank .*)$", COMMANDS, re.M)) == sorted(REAL)


@pytest.mark.parametrize("name", sorted(REAL))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    """The table of a command has its options and arguments, and says which are required."""
    rows = rows_of(section(COMMANDS, name), "option", "meaning")
    assert {row["option"] for row in rows} == spelled(REAL[name])
    required = {str(one.name) for one in REAL[name].params if one.required}
    said = {row["option"].strip("-").lower() for row in rows if "required" in row["meaning"]}
    assert said == required - ({"name"} if name == "nightrank data fetch" else set())


def test_every_make_target_is_documented_and_no_other() -> None:
    """commands.md and the Makefile name the same targets."""
    real = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [name.removeprefix("make ") for name in column(COMMANDS, "target")] == sorted(
        real, key=lambda name: column(COMMANDS, "target").index(f"make {name}")
    )


def code_of(page: str) -> Iterator[str]:
    """Lines of shell blocks, of blocks without a language, and inline code."""
    for language in ("bash", ""):
        for block in blocks(page, language):
            yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S))


CALLS = sorted({(name, line.strip()) for name, page in TEXTS.items() for line in code_of(page)})


@pytest.mark.parametrize(
    ("page", "line"), [one for one in CALLS if re.match(r"(nightrank|make) [a-z]", one[1])], ids=str
)
def test_commands_that_pages_mention_exist(page: str, line: str) -> None:
    """A command or target that a reader may type, from README.md too, is there with its options."""
    words = line.split("#")[0].split()
    if words[0] == "make":
        assert words[1] in re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        return
    names = [name for name in REAL if words[: len(name.split())] == name.split()]
    if not names:
        assert any(name.startswith(" ".join(words)) for name in REAL)
        return
    (name,) = names
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= spelled(REAL[name])


# All pages


def test_all_pages_are_there_and_on_the_map() -> None:
    """index.md links every page of the folder."""
    assert set(PAGES) == {f"{name}.md" for name in NAMES}
    for name in NAMES[1:]:
        assert f"[{name}.md]({name}.md)" in PAGES["index.md"]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_links_between_pages_resolve(name: str) -> None:
    """Every relative link leads to a file, and to a heading in it where it names one."""
    base = DOCS if name in PAGES else ROOT
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = base / target if target else base / name
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_pages_stand_alone(name: str) -> None:
    """No page names a package registry's host, a path of some developer's machine, or papers users never see."""
    private = (
        r"pypi\.",
        r"pythonhosted",
        "/" + "work/",
        r"/root\b",
        r"/home/\w",
        r"shared/DESIGN",
        r"\bissues?\b",
    )
    found = [one for pattern in private for one in re.findall(pattern, TEXTS[name], re.I)]
    assert found == []
    assert str(ROOT) not in TEXTS[name]
