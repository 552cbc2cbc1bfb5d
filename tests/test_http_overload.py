"""More than can be answered: who cannot be served is told at once, and who asks for stored lists does not notice."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from typing import Any

import httpx
import pytest

import asked
from asked import Service, refusal, served, user_path
from nightrank.errors import ReleaseError
from nightrank.ranking.topk import TopK
from nightrank.release.manifest import CURRENT
from nightrank.release.reader import Release
from nightrank.service.lists import ANSWERING, WAITING

shared = asked.shared
RECOMMENDATIONS = "/v1/recommendations"


class Slow:
    """A catalogue that is ranked when it is told to."""

    def __init__(self, index: Any) -> None:
        self.index, self.go = index, threading.Event()

    def top_k(self, *args: Any, **options: Any) -> TopK:
        self.go.wait()
        found: TopK = self.index.top_k(*args, **options)
        return found


@pytest.fixture
def slow(shared: Service) -> Service:
    service = served(shared.published)
    prepared = service.holder.prepared
    service.holder.prepared = dataclasses.replace(prepared, index=Slow(prepared.index), is_quick=False)
    return service


def test_beyond_the_bound_a_live_request_is_refused_and_look_ups_go_on(slow: Service) -> None:
    """503 with Retry-After, at once; stored lists, history and readiness are answered; nobody else is lost."""
    most = ANSWERING + WAITING

    async def scenario() -> tuple[list[httpx.Response], httpx.Response, list[int]]:
        ask = slow.client.asked
        live = [asyncio.create_task(ask("GET", user_path(0), params={"exclude": "3"})) for _ in range(most)]
        await asyncio.sleep(0.2)
        refused = await ask("POST", RECOMMENDATIONS, json={"user_id": 0, "exclude": [3]})
        paths = (user_path(0), user_path(0, "history"), "/readyz")
        others = [(await ask("GET", path)).status_code for path in paths]
        slow.holder.prepared.index.go.set()
        return await asyncio.gather(*live), refused, others

    answered, refused, others = asyncio.run(scenario())
    assert refusal(refused)[:2] == (503, "overloaded")
    assert str(WAITING) in refusal(refused)[2]
    assert refused.headers["retry-after"] == "1"
    assert others == [200, 200, 200]
    assert {answer.status_code for answer in answered} == {200}
    assert len({answer.content for answer in answered}) == 1
    assert slow.get(user_path(0), exclude="3").status_code == 200


def test_a_caller_who_leaves_frees_its_place(slow: Service) -> None:
    """What waits for a thread and is given up by its caller counts no more."""

    async def scenario() -> httpx.Response:
        ask = slow.client.asked
        left = [
            asyncio.create_task(ask("GET", user_path(0), params={"exclude": "3"}))
            for _ in range(ANSWERING + WAITING)
        ]
        await asyncio.sleep(0.2)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        slow.holder.prepared.index.go.set()
        return await ask("GET", user_path(0), params={"exclude": "3"})

    assert asyncio.run(scenario()).status_code == 200


def test_a_quick_catalogue_is_ranked_where_the_request_is_read(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread for a few microseconds; many places or ids, and events, take one. The answers are the same."""
    service = served(shared.published)
    assert service.holder.prepared.is_quick
    threads = []

    async def ranked(self: Any, answer: Any) -> Any:
        threads.append(1)
        return answer()

    monkeypatch.setattr("nightrank.service.lists.Lists._ranked", ranked)
    for body, in_thread in (
        ({"user_id": 0, "exclude": [3]}, 0),
        ({"user_id": 0, "exclude": [3], "k": 101}, 1),
        ({"user_id": 0, "exclude": list(range(100))}, 1),
        ({"events": [{"item_id": 3}]}, 1),
    ):
        threads.clear()
        answer = service.post(RECOMMENDATIONS, body).json()
        assert len(threads) == in_thread
        service.holder.prepared = dataclasses.replace(service.holder.prepared, is_quick=False)
        assert service.post(RECOMMENDATIONS, body).json() == answer
        service.holder.prepared = dataclasses.replace(service.holder.prepared, is_quick=True)


def test_a_release_that_cannot_be_read_is_503_store_unavailable(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the caller's fault, and no place is named."""

    def lost(*_: object) -> None:
        raise ReleaseError(f"{CURRENT} of {shared.published.store.url} is lost")

    monkeypatch.setattr(Release, "history", lost)
    status, code, message = shared.error(user_path(0, "history"))
    assert (status, code) == (503, "store_unavailable")
    assert shared.published.store.url not in message


def test_a_body_that_breaks_off_is_400(shared: Service) -> None:
    """The connection ended before the body did: nothing is taken for a request."""
    answers: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": b'{"user_id"', "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": RECOMMENDATIONS, "query_string": b"", "headers": []}
    asyncio.run(shared.api(scope, receive, send))
    assert answers[0]["status"] == 400
    assert b"body_incomplete" in answers[1]["body"]
