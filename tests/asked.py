"""A service on a real release, a client that asks it in this process, and the fixtures of its tests."""

from __future__ import annotations

import asyncio
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pyarrow.parquet as pq
import pytest

import made
from made import Published
from nightrank.service.api import Api
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api

K, SIMILAR_K = 20, 10
SCORE = {"k": K, "buckets": 4, "similar_items_k": SIMILAR_K}


class Client:
    """Asks an ASGI application in this process, as a server would."""

    def __init__(self, api: Api) -> None:
        self.transport = httpx.ASGITransport(api, raise_app_exceptions=False)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.asked(method, path, **options))

    async def asked(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.request("GET", path, params=query or None)


@dataclass(frozen=True)
class Service:
    """A release, the holder that holds it, and a client that checks every answer against OpenAPI."""

    published: Published
    holder: ReleaseHolder
    api: Api
    client: Client

    def get(self, path: str, **query: Any) -> httpx.Response:
        """The answer, which must be documented: its status, and every field of its body."""
        return self.ask("GET", path, params=query or None)

    def post(self, path: str, body: Any) -> httpx.Response:
        """The same for a JSON body."""
        return self.ask("POST", path, json=body)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The same for any call."""
        answer = self.client.request(method, path, **options)
        check_documented(self.api, answer)
        return answer

    def error(self, path: str, **query: Any) -> tuple[int, str, str]:
        """Status, code and message of an answer in the documented error shape."""
        return refusal(self.get(path, **query))


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an answer in the documented error shape."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return answer.status_code, body["error"]["code"], body["error"]["message"]


def served(published: Published, **options: Any) -> Service:
    holder = ReleaseHolder(published.store)
    holder.refresh()
    api = build_api(holder, **options)
    return Service(published, holder, api, Client(api))


def check_documented(api: Api, answer: httpx.Response) -> None:
    """The answer's status stands in /openapi.json for its route, and its body has the fields there and no more."""
    openapi = described(api)
    path = answer.request.url.raw_path.decode().split("?")[0]
    matches = [
        operations[answer.request.method.lower()]
        for template, operations in openapi["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ]
    documented = matches[0]["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    assert answer.headers["content-type"] == "application/json"
    components = {"components": openapi["components"]}
    jsonschema.Draft202012Validator(documented | components).validate(answer.json())


@functools.cache
def described(api: Api) -> dict[str, Any]:
    """/openapi.json, closed: no field beyond those it names."""
    openapi: dict[str, Any] = Client(api).get("/openapi.json").json()
    for schema in openapi["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return openapi


@pytest.fixture(scope="module", params=["int64", "string"])
def any_ids(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service on int64 ids and one on strings; tests only read."""
    kind = request.param
    events, items = made.make_events(users=kind, items=kind), made.make_items(items=kind)
    return served(
        made.published_release(tmp_path_factory.mktemp(kind), events=events, items=items, score=SCORE)
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service on int64 ids; tests only read."""
    return served(made.published_release(tmp_path_factory.mktemp("shared"), score=SCORE))


@pytest.fixture
def service(shared: Service, tmp_path: Path) -> Service:
    """The same on a store of its own, to be changed or damaged."""
    return served(made.copied(shared.published, tmp_path))


def stored(published: Published, table: str, owner: str) -> dict[Any, list[dict[str, Any]]]:
    lists: dict[Any, list[dict[str, Any]]] = {}
    for row in pq.read_table(published.folder / table).to_pylist():
        lists.setdefault(row[owner], []).append(row)
    return lists


def titles(published: Published) -> dict[Any, str | None]:
    return {
        row["item_id"]: row["title"] for row in pq.read_table(published.folder / "items.parquet").to_pylist()
    }


def user_path(user_id: Any, what: str = "recommendations") -> str:
    return f"/v1/users/{quote(str(user_id), safe='')}/{what}"


def item_path(item_id: Any) -> str:
    return f"/v1/items/{quote(str(item_id), safe='')}/similar"


def kind_of(service: Service) -> str:
    return service.published.release.model.user_ids.kind


def another(service: Service, folder: Path, *, seed: int = 1) -> Published:
    """A second release of the same users in the service's store, put in service there."""
    return made.published_release(
        folder / f"seed-{seed}", store=service.published.store.url, seed=seed, score=SCORE
    )
