"""What a job over HTTP may change, and that its command line says exactly that, whatever is in it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from jobs_server import jobs_server
from nightrank.config.families import FAMILIES, Word
from nightrank.config.job import JobConfig, load_job
from nightrank.config.reading import parse_yaml
from nightrank.config.service import JobsSettings
from nightrank.errors import SettingsError
from nightrank.service.job_overrides import (
    ALLOWED,
    MAX_COMMAND_BYTES,
    MOST,
    as_yaml,
    check_most,
    command,
    settings_of,
)
from nightrank.service.job_schemas import JobRequest
from nightrank.service.jobs import Jobs
from nightrank.service.refusal import RequestError

PLACES = (
    "/etc/passwd",
    "s3://bucket/prefix",
    "~/x",
    "../x",
    "C:\\x",
    "events.parquet",
    "http://h/x",
    "$HOME",
)


def keys(model: type[BaseModel] = JobConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the job file: sections and what is in them."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")


def is_allowed(key: str) -> bool:
    return any(f"{key}.".startswith(f"{one}.") for one in ALLOWED)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A job file with everything that an override could need beside it."""
    path = tmp_path / "job.yaml"
    columns = {"type": "event_type", "time": "timestamp"}
    events = {"path": str(tmp_path / "e.parquet"), "columns": columns, "type_weights": {"View": 1}}
    path.write_text(yaml.safe_dump({"store": str(tmp_path / "store"), "events": events}))
    return path


def test_every_allowed_key_is_one_of_the_job_file() -> None:
    """The list cannot go stale: what it names can be set."""
    assert set(ALLOWED) <= set(keys())


@pytest.mark.parametrize("key", sorted(key for key in keys() if not is_allowed(key)))
def test_whatever_else_the_job_file_says_is_refused_by_name(key: str) -> None:
    """Stores, paths, data sets and columns are the operator's, and so is any setting that comes later."""
    for value in (None, "x", 1, {}, {"path": "x"}):
        with pytest.raises(SettingsError, match=re.escape(key)):
            settings_of({key: value})
    with pytest.raises(SettingsError):
        settings_of({f" {key.replace('.', ' . ')} ": "x"})


@pytest.mark.parametrize("key", sorted(key for key in keys() if is_allowed(key)))
def test_no_allowed_key_takes_a_place(key: str, config: Path) -> None:
    """A setting that holds a path, URL or file cannot slip in below a section that is allowed."""
    for place in PLACES:
        for value in (place, [place], {"View": place}, {"path": place}, {"als": {"factors": place}}):
            with pytest.raises(SettingsError):
                load_job(config, overrides=settings_of({key: value}), inside_job=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"trian.model": "svd"}, "trian.model: unknown key (found \"svd\"); did you mean train"),
        ({"events": {"path": "/x"}}, "only the job file says that"),
        ({"events.path": "x"}, "only the job file says that"),
        ({"train": {"model": "${HOME}"}}, 'train.model: found "${HOME}", which holds "$"'),
        ({"sweep": {"models": {"als": {"x": ["/x"]}}}}, 'sweep.models.als.x[0]: found "/x"'),
        ({"score.k=5": 1}, "expected key or key.path"),
        ({"": 1}, "expected key or key.path"),
        ({"score..k": 1}, "expected key or key.path"),
        ({"score.k\0": 1}, "expected key or key.path"),
        ({"train.\ud800": 1}, "expected key or key.path"),
        ({"train.model": "\ud800"}, "no Unicode text"),
        ({"events.type_weights": {"\ud800": 1}}, "no Unicode text"),
        ({"events.type_weights": {"x" * MAX_COMMAND_BYTES: 1}}, "put what is long into the job file"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_what_is_near(overrides: Mapping[str, Any], said: str) -> None:
    """Nobody has to guess, and no variable of the node's environment is told to a caller."""
    with pytest.raises(SettingsError) as caught:
        settings_of(overrides)
    assert said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    """One answer for one request."""
    with pytest.raises(SettingsError, match="2 problems") as caught:
        settings_of({"store": "x", "sede": 1})
    assert "store" in str(caught.value)
    assert "did you mean seed" in str(caught.value)


def test_an_override_changes_the_job_as_set_does(config: Path) -> None:
    """Dotted keys and whole sections, in order, the later one wins; event types may have any name."""
    asked = {
        "train": {"model": "svd", "params": {"factors": 100}},
        "train.params.factors": 50,
        "score.k": 1e1,
        "events.type_weights": {"Add/to 'cart' $(x)": 2.5, "日本 😀\x7f\u2028": 1},
        "events.half_life_days": 1e-7,
    }
    with pytest.raises(SettingsError, match=r"score\.k: found 10\.0, expected a whole number"):
        load_job(config, overrides=settings_of(asked))
    job = load_job(config, overrides=settings_of(asked | {"score.k": 10}))
    assert (job.train.model, job.train.params) == ("svd", {"factors": 50})
    assert job.score.k == 10
    assert job.events.type_weights == {"Add/to 'cart' $(x)": 2.5, "日本 😀\x7f\u2028": 1}
    assert job.events.half_life_days == 1e-7


WORDS = [
    (family, name, param)
    for family, one in FAMILIES.items()
    for name, param in one.params.items()
    if isinstance(param, Word)
]


@pytest.mark.parametrize(("family", "name", "param"), WORDS, ids=[f"{one[0]}-{one[1]}" for one in WORDS])
def test_parameters_that_are_words_are_checked_and_submitted(
    config: Path, family: str, name: str, param: Word
) -> None:
    """Each word of a family reaches the cluster's command line as it is, any other is 422 with those there are."""
    with jobs_server() as cluster:
        jobs = Jobs(JobsSettings(address=cluster.address, config=str(config)), told=str)
        for word in param.words:
            train = {"model": family, "params": {name: word}}
            request = JobRequest(stage="train", overrides={"train": train, "label": "weight>=4"})
            words = shlex.split(cluster.jobs[jobs.submit(request).id]["entrypoint"])
            job = load_job(config, overrides=[text for text in words if "=" in text])
            assert (job.train.model, job.train.params[name], job.label) == (family, word, "weight>=4")
        wrong = JobRequest(stage="train", overrides={"train": {"model": family, "params": {name: "no such"}}})
        with pytest.raises(RequestError) as caught:
            jobs.submit(wrong)
        assert (caught.value.status, caught.value.code) == (422, "invalid_overrides")
        assert f'train.params.{name}: found "no such", expected {param.expected()}' in str(caught.value)
        assert len(cluster.jobs) == len(param.words)


def test_a_class_needs_its_rule(config: Path) -> None:
    """A task of classes without `label` is refused, and so is a rule that is none; both can be given at once."""
    task = {"train": {"model": "mean", "params": {"task": "label"}}}
    with pytest.raises(SettingsError, match="without the setting label"):
        load_job(config, overrides=settings_of(task))
    with pytest.raises(SettingsError, match="label"):
        load_job(config, overrides=settings_of(task | {"label": "weight is high"}))
    assert load_job(config, overrides=settings_of(task | {"label": "weight>=4"})).label == "weight>=4"


@pytest.mark.parametrize("name", MOST)
def test_a_slip_of_a_digit_is_refused_and_the_job_file_may_say_more(name: str, config: Path) -> None:
    """Up to the limit all is well; beyond it only what the operator has written, also beside another override."""
    section, key = name.split(".")

    def checked(value: int, **of_file: int) -> None:
        written = yaml.safe_load(config.read_text()) | ({section: of_file} if of_file else {})
        config.with_name("written.yaml").write_text(yaml.safe_dump(written))
        base = load_job(config.with_name("written.yaml"))
        for override in ({name: value}, {section: {key: value}}, {name: value, "seed": 1}):
            check_most(load_job(config.with_name("written.yaml"), overrides=settings_of(override)), base)

    checked(MOST[name])
    checked(MOST[name], **{key: MOST[name] + 1})
    checked(MOST[name] + 1, **{key: MOST[name] + 1})
    for of_file in ({}, {key: MOST[name] + 2}):
        with pytest.raises(
            SettingsError, match=f"{name}: found {MOST[name] + 1}, expected at most {MOST[name]}"
        ):
            checked(MOST[name] + 1, **of_file)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(value=ANY_VALUE)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_value_is_read_back_as_it_was(value: Any) -> None:
    """No JSON value is changed on its way through YAML, and it is one line of ASCII."""
    text = as_yaml(value)
    assert parse_yaml(text) == value
    assert re.fullmatch(r"[ -~]*", text)


def test_the_shell_runs_exactly_the_words() -> None:
    """Quotes, substitutions, line ends and wildcards in a word do nothing."""
    odd = [
        "$(touch x)",
        "`id`",
        "'",
        '"',
        "a\nb",
        "*",
        "~",
        "--set",
        "",
        "a b;c&d|e>f",
        "日本 😀",
        "\\",
        "!!",
        "#x",
    ]
    words = [*odd, *(f"train.model={as_yaml(text)}" for text in odd)]
    line = command([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *words])
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == words
