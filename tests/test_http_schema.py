"""Every call that OpenAPI describes, in every odd way that schemathesis thinks of: no 500, no undocumented answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.openapi.checks import RejectedPositiveData

import asked
import made
from asked import Service, served
from featured import with_features
from jobs_server import JobsServer, jobs_server
from nightrank.config.service import JobsSettings
from nightrank.data.features import FeatureColumn
from nightrank.service.jobs import MARK, Jobs
from nightrank.service.key_file import add
from nightrank.service.keys import Keys

FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# Right by the document, but not for this release or this job file
OF_THE_DATA = {
    "unknown_category",
    "unknown_type",
    "invalid_id",
    "k_too_large",
    "invalid_overrides",
}
COLUMNS = (  # by the names that are thought of most
    FeatureColumn("", None, mean=1.0, scale=1e-3),
    FeatureColumn("0", ("", "0", "false", "true")),
)


@dataclass(frozen=True)
class Described:
    """A service, its document with the application behind it, an admin's headers, and the cluster of its jobs."""

    service: Service
    document: Any
    headers: dict[str, str]
    cluster: JobsServer


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    """On text ids, where any text may be one; with keys and jobs, so that no call ends at the door."""
    events, items = made.make_events(users="string", items="string"), made.make_items(items="string")
    folder = tmp_path_factory.mktemp("described")
    change = with_features(COLUMNS)
    published = made.published_release(folder, events=events, items=items, score=asked.SCORE, change=change)
    _, key = add(folder / "keys.json", role="admin")
    with jobs_server(log="18:05:15 train: done in 3.48 s\n") as cluster:
        jobs = Jobs(JobsSettings(address=cluster.address, config=str(job_file(folder))), told=str)
        service = served(published, keys=Keys(folder / "keys.json"), jobs=jobs)
        document = schemathesis.openapi.from_asgi("/openapi.json", service.api)
        yield Described(service, document, {"Authorization": f"Bearer {key}"}, cluster)


def job_file(folder: Path) -> Path:
    events = {"path": str(folder / "events.parquet"), "columns": made.COLUMNS}
    raw = {"store": str(folder / "store"), "events": events}
    (folder / "job.yaml").write_text(yaml.safe_dump(raw))
    return folder / "job.yaml"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_the_service_is_what_its_document_says(described: Described, mode: GenerationMode) -> None:
    """Status, media type, body and headers of each answer are documented, and what breaks the document is refused."""
    asked_of = set()
    for found in described.document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @FEW
        def ask(case: Case) -> None:
            answer = case.call(headers=described.headers)
            try:
                case.validate_response(answer)
            except BaseExceptionGroup as group:
                refused = all(isinstance(one, RejectedPositiveData) for one in group.exceptions)
                code = answer.json()["error"]["code"]
                if not refused or not (code in OF_THE_DATA or has_whole_float(case.body)):
                    raise

        try:
            ask()
        except Unsatisfiable:
            assert mode == GenerationMode.NEGATIVE  # a call that takes nothing can be given nothing wrong
            continue
        asked_of.add(operation.label)
    assert len(asked_of) >= {GenerationMode.POSITIVE: 13, GenerationMode.NEGATIVE: 6}[mode]


def test_every_call_succeeds_as_documented(described: Described) -> None:
    """What nobody guesses, ids above all, is given: the answer of each call when all is well."""
    release = described.service.published.release
    user, item = ({"user_id": release.model.user_ids[0]}, {"item_id": release.model.item_ids[0]})
    described.cluster.add("by-hand", metadata={MARK: "train"}, message="Job finished successfully.")
    given: dict[str, dict[str, Any]] = {
        "GET /v1/users/{user_id}/recommendations": {"path_parameters": user, "query": {"k": 3}},
        "POST /v1/recommendations": {"body": {"requests": [user, {"k": 2}, {"features": {"0": "true"}}]}},
        "GET /v1/users/{user_id}/history": {"path_parameters": user},
        "GET /v1/items/{item_id}/similar": {"path_parameters": item},
        "POST /v1/predictions": {"body": {"pairs": [user | item]}},
        "POST /v1/releases/{release_id}/activate": {"path_parameters": {"release_id": release.id}},
        "POST /v1/jobs": {"body": {"stage": "train", "overrides": {"score.k": 5}}},
        "GET /v1/jobs/{job_id}": {"path_parameters": {"job_id": "by-hand"}},
    }
    operations = {one.ok().label: one.ok() for one in described.document.get_all_operations()}
    assert set(given) == {label for label in operations if "{" in label or label.startswith("POST ")}
    for label, operation in operations.items():
        case = operation.Case(**given.get(label, {}), media_type="application/json")
        answer = case.call(headers=described.headers)
        case.validate_response(answer)
        (documented,) = [code for code in operation.definition.raw["responses"] if code.startswith("2")]
        assert str(answer.status_code) == documented, label


def has_whole_float(value: Any) -> bool:
    """3.0, an integer to JSON Schema; not to us, since the next one beyond 2**53 would be another id."""
    if isinstance(value, dict | list):
        return any(has_whole_float(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()
