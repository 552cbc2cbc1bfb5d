"""A service on a real release, a client that asks it in this process, and the fixtures of its tests."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

import made
from made import Published
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api

K, SIMILAR_K = 20, 10
SCORE = {"k": K, "buckets": 4, "similar_items_k": SIMILAR_K}


class Client:
    """Asks an ASGI application in this process, as a server would."""

    def __init__(self, api: FastAPI) -> None:
        self.transport = httpx.ASGITransport(api, raise_app_exceptions=False)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self.transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.request("GET", path, params=query or None)


@dataclass(frozen=True)
class Service:
    """A release, the holder that holds it, and a client that checks every answer against OpenAPI."""

    published: Published
    holder: ReleaseHolder
    api: FastAPI
    client: Client

    def get(self, path: str, **query: Any) -> httpx.Response:
        """The answer, which must be documented: its status, and every field of its body."""
        answer = self.client.get(path, **query)
        check_documented(self.api, answer)
        return answer

    def error(self, path: str, **query: Any) -> tuple[int, str, str]:
        """Status, code and message of an answer in the documented error shape."""
        answer = self.get(path, **query)
        body = answer.json()
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message"}
        return answer.status_code, body["error"]["code"], body["error"]["message"]


def served(published: Published) -> Service:
    holder = ReleaseHolder(published.store)
    holder.refresh()
    api = build_api(holder)
    return Service(published, holder, api, Client(api))


def check_documented(api: FastAPI, answer: httpx.Response) -> None:
    """The answer's status stands in /openapi.json for its route, and its body has the fields there and no more."""
    openapi = api.openapi()
    path = answer.request.url.raw_path.decode().split("?")[0]
    matches = [
        operations["get"]
        for template, operations in openapi["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ]
    documented = matches[0]["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
    components = json.loads(json.dumps(openapi["components"]))
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    assert answer.headers["content-type"] == "application/json"
    jsonschema.Draft202012Validator(documented | {"components": components}).validate(answer.json())


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
