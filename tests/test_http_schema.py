"""Every call that OpenAPI describes, in every odd way that schemathesis thinks of: no 500, no undocumented answer."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.openapi.checks import RejectedPositiveData

import asked
import made
from asked import served

FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
# Right by the document, but not for this release
OF_THE_DATA = {"unknown_category", "unknown_type", "invalid_id", "k_too_large"}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The document of a service on text ids, where any text may be one, and the application behind it."""
    events, items = made.make_events(users="string", items="string"), made.make_items(items="string")
    folder = tmp_path_factory.mktemp("described")
    service = served(made.published_release(folder, events=events, items=items, score=asked.SCORE))
    return schemathesis.openapi.from_asgi("/openapi.json", service.api)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_the_service_is_what_its_document_says(described: Any, mode: GenerationMode) -> None:
    """Status, media type, body and headers of each answer are documented, and what breaks the document is refused."""
    asked_of = set()
    for found in described.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @FEW
        def ask(case: Case) -> None:
            answer = case.call()
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


def has_whole_float(value: Any) -> bool:
    """3.0, an integer to JSON Schema; not to us, since the next one beyond 2**53 would be another id."""
    if isinstance(value, dict | list):
        return any(has_whole_float(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()
