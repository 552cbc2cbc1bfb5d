"""docs/http.md on jobs: overrides, request, answers, fields and settings are those of the service."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from nightrank.config.service import JobsSettings
from nightrank.service.job_log import END_CHARS, MAX_LINE_CHARS, MAX_LINES
from nightrank.service.job_overrides import ALLOWED, MOST, settings_of
from nightrank.service.job_schemas import JobRequest, JobState, JobSubmitted, Stage, State
from nightrank.service.jobs import MOST_IN_PROGRESS
from nightrank.service.jobs_api import MAX_ANSWER_BYTES
from nightrank.service.stage_times import N_RUNS
from pages import HTTP, ROOT, blocks, rows_of, section


def test_the_overrides_are_those_that_are_allowed() -> None:
    """The table has every key that may be changed, and no other."""
    said = [name for row in rows_of(HTTP, "override") for name in re.findall(r"[\w.]+", row["override"])]
    assert sorted(said) == sorted(ALLOWED)


def test_the_limits_are_those_that_are_checked() -> None:
    """Each setting that has one over HTTP, how many jobs there may be, and how much of a log is read."""
    rows = rows_of(HTTP, "setting", "at most over HTTP")
    said = {row["setting"].strip("`"): row["at most over HTTP"] for row in rows}
    assert said == {name: f"{most:,}" for name, most in MOST.items()}
    assert f"While {MOST_IN_PROGRESS} jobs of nightrank's are pending or running" in section(
        HTTP, "POST /v1/jobs"
    )
    part = section(HTTP, "GET /v1/jobs/{job_id}")
    assert f"longer than {MAX_ANSWER_BYTES // 2**20} MiB" in part
    assert f"its last {END_CHARS // 2**10} KiB" in part


def test_the_example_request_is_one() -> None:
    """It passes the schema and the allow-list."""
    (text,) = blocks(section(HTTP, "POST /v1/jobs"), "json request")
    assert len(settings_of(JobRequest.model_validate_json(text).overrides)) == 2


@pytest.mark.parametrize(
    ("heading", "model"), [("POST /v1/jobs", JobSubmitted), ("GET /v1/jobs/{job_id}", JobState)]
)
def test_the_example_answers_have_the_real_shape(heading: str, model: type[BaseModel]) -> None:
    """No field of an example is invented, and none that always comes is missing."""
    (text,) = blocks(section(HTTP, heading), "json")
    assert model.model_validate_json(text).model_dump(mode="json") == json.loads(text)


def test_fields_states_stages_and_limits_are_the_real_ones() -> None:
    """What a program is written against."""
    part = section(HTTP, "GET /v1/jobs/{job_id}")
    rows = {row["field"]: row["meaning"] for row in rows_of(part, "field")}
    named = {name for field in rows for name in re.findall(r"\w+", field)}
    assert named | {"id", "stage"} == set(JobState.model_fields)
    assert set(re.findall(r"[A-Z]+", rows["state"])) == set(get_args(State))
    assert f"last {MAX_LINES} lines, each cut at {MAX_LINE_CHARS:,} characters" in rows["log"]
    assert f"the newest {N_RUNS} runs" in part
    first = section(HTTP, "Jobs over HTTP").partition(" can be started")[0]
    assert set(re.findall(r"\w+", first)) - {"and"} == set(get_args(Stage))


def test_the_settings_are_those_of_the_service() -> None:
    """The example of the page and the one in serve_config.yaml name every setting, and load."""
    (text,) = blocks(section(HTTP, "Jobs over HTTP"), "yaml serve")
    page = yaml.safe_load(text)["args"]["jobs"]
    file = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"^ +# ( *(?:jobs|address|config|cluster|token):.*)$", file, re.M)
    shipped = yaml.safe_load("\n".join(lines))["jobs"]
    assert page == shipped
    assert set(page) == set(JobsSettings.model_fields)
    JobsSettings.model_validate(page)
