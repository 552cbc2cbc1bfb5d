"""The HTTP service on a real release: answers, errors, OpenAPI, and the flip from one release to the next."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI

import made
from made import Published
from nightrank.batch.publish import publish
from nightrank.release.manifest import CURRENT
from nightrank.release.publish import activate
from nightrank.release.store import open_store
from nightrank.service.answers import RequestError, parse_id
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


# -- answers ---------------------------------------------------------------------------------------------


def test_a_stored_answer_is_the_parquet_row_to_the_bit(any_ids: Service) -> None:
    """For every user, odd ids included: items, ranks and float32 scores over HTTP are the warehouse's rows."""
    lists, names = stored(any_ids.published, "recommendations", "user_id"), titles(any_ids.published)
    for user_id in made.make_ids(made.N_USERS, kind=kind_of(any_ids)):
        answer = any_ids.get(user_path(user_id), k=K).json()
        assert (answer["user_id"], answer["source"]) == (user_id, "precomputed")
        assert answer["release"] == any_ids.published.release.id
        expected = lists.get(user_id, [])
        assert [(item["item_id"], item["rank"]) for item in answer["items"]] == [
            (row["item_id"], row["rank"]) for row in expected
        ]
        told = np.array([item["score"] for item in answer["items"]])
        assert told.tolist() == [row["score"] for row in expected]
        assert told.astype(np.float32).astype(np.float64).tolist() == told.tolist()
        assert [item.get("title") for item in answer["items"]] == [names[row["item_id"]] for row in expected]


def test_an_item_without_a_title_has_no_title_key(shared: Service) -> None:
    """`title?` in the contract: left out, not null and not empty."""
    untitled = [item for item, title in titles(shared.published).items() if title is None]
    items = [
        item
        for user_id in made.make_ids(made.N_USERS, kind="int64")
        for item in shared.get(user_path(user_id), k=K).json()["items"]
    ]
    bare = {item["item_id"] for item in items if "title" not in item}
    assert bare == set(untitled)
    assert all(item.get("title") != "" for item in items)


@pytest.mark.parametrize("k", [1, 3, K])
def test_k_cuts_the_list(shared: Service, k: int) -> None:
    """A smaller k is the head of the same list; without k it is 10."""
    whole = shared.get(user_path(0), k=K).json()["items"]
    assert shared.get(user_path(0), k=k).json()["items"] == whole[:k]
    assert shared.get(user_path(0)).json()["items"] == whole[:10]


def test_users_with_few_or_no_unseen_items_get_short_lists(shared: Service) -> None:
    """The user with three items left gets three, the one who has seen all gets an empty list, both precomputed."""
    few, none = (made.make_ids(6, kind="int64")[place] for place in (4, 5))
    for user_id, count in ((few, 3), (none, 0)):
        answer = shared.get(user_path(user_id), k=K).json()
        assert (answer["source"], len(answer["items"])) == ("precomputed", count)


def test_an_unknown_user_gets_the_popular_items(any_ids: Service) -> None:
    """Nobody is left without an answer: popular.parquet over all, from the top, with titles."""
    table = pq.read_table(any_ids.published.folder / "popular.parquet").to_pylist()
    expected = [row for row in table if row["category"] is None]
    names = titles(any_ids.published)
    unknown = {"int64": 1, "string": "nobody at all ü"}[kind_of(any_ids)]
    answer = any_ids.get(user_path(unknown), k=7).json()
    assert (answer["user_id"], answer["source"]) == (unknown, "popular")
    assert [(item["item_id"], item["rank"], item["score"]) for item in answer["items"]] == [
        (row["item_id"], row["rank"], row["score"]) for row in expected[:7]
    ]
    assert [item.get("title") for item in answer["items"]] == [names[row["item_id"]] for row in expected[:7]]


def test_history_is_strongest_first(any_ids: Service) -> None:
    """A user's own weights, ties by item id, with titles, cut at k."""
    kind, names = kind_of(any_ids), titles(any_ids.published)
    events, model = made.make_events(users=kind, items=kind).to_pylist(), any_ids.published.release.model
    for user_id in made.make_ids(12, kind=kind):
        mine = [(row["item_id"], row["weight"]) for row in events if row["user_id"] == user_id]
        mine.sort(key=lambda pair: (-pair[1], model.item_ids.find(pair[0])))
        answer = any_ids.get(user_path(user_id, "history"), k=1000).json()
        assert (answer["user_id"], answer["release"]) == (user_id, any_ids.published.release.id)
        assert [(item["item_id"], item["weight"]) for item in answer["items"]] == mine
        assert [item.get("title") for item in answer["items"]] == [names[item] for item, _ in mine]
        assert any_ids.get(user_path(user_id, "history"), k=2).json()["items"] == answer["items"][:2]


def test_similar_items_are_the_parquet_rows(any_ids: Service) -> None:
    """The neighbours and cosines of the warehouse, never the item itself."""
    lists = stored(any_ids.published, "similar_items", "item_id")
    for item_id in made.make_ids(made.N_ITEMS, kind=kind_of(any_ids)):
        answer = any_ids.get(item_path(item_id), k=SIMILAR_K).json()
        assert answer["item_id"] == item_id
        assert [(item["item_id"], item["rank"], item["score"]) for item in answer["items"]] == [
            (row["similar_item_id"], row["rank"], row["score"]) for row in lists[item_id]
        ]
        assert item_id not in [item["item_id"] for item in answer["items"]]


# -- refusals --------------------------------------------------------------------------------------------


def test_unknown_user_in_history_and_unknown_item_in_similar_are_404(any_ids: Service) -> None:
    """Where there is nothing to fall back to the answer says by code what is unknown."""
    unknown = {"int64": "123456", "string": "nobody"}[kind_of(any_ids)]
    assert any_ids.error(user_path(unknown, "history"))[:2] == (404, "unknown_user")
    assert any_ids.error(item_path(unknown))[:2] == (404, "unknown_item")


@pytest.mark.parametrize(
    "text",
    ["x", "1.0", "1e3", " 1", "+1", "0x10", "--1", "٣", "9" * 19, "-" + "9" * 19, "1" * 5000, "null", "%"],
)
def test_what_cannot_be_an_int64_id_is_422(shared: Service, text: str) -> None:
    """A path id that is none of the store's type is refused in every route, never taken for unknown."""
    for path in (user_path(text), user_path(text, "history"), item_path(text)):
        status, code, message = shared.error(path)
        assert (status, code) == (422, "invalid_id")
        assert "expected an int64" in message


def test_the_ends_of_int64_are_ids(shared: Service) -> None:
    """The largest and smallest int64 are known users of the release and found as such."""
    for user_id in (2**63 - 1, -(2**63), 0, -1):
        answer = shared.get(user_path(user_id)).json()
        assert (answer["user_id"], answer["source"]) == (user_id, "precomputed")


def test_parse_id_keeps_text_as_it_is(any_ids: Service) -> None:
    """On a store of strings "007" is not "7"; on one of integers the id is a number and text is refused."""
    ids = any_ids.published.release.model.user_ids
    if ids.is_int:
        assert parse_id("7", ids, what="user_id") == 7
        with pytest.raises(RequestError, match="user_id 'abc' cannot be an id here"):
            parse_id("abc", ids, what="user_id")
    else:
        assert [parse_id(text, ids, what="user_id") for text in ("007", "abc")] == ["007", "abc"]


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5", "", "10001", "9" * 30])
def test_k_that_makes_no_sense_is_422(shared: Service, k: str) -> None:
    """k is refused where it is no whole number from 1 on, and the message names it."""
    for path in (user_path(0), user_path(0, "history"), item_path(0)):
        status, code, message = shared.error(path, k=k)
        assert (status, code) == (422, "invalid_request")
        assert "query.k" in message


def test_k_beyond_what_is_stored_is_422(shared: Service) -> None:
    """A list is never shorter than asked for because the release was scored with a smaller k."""
    for path, limit in ((user_path(0), K), (user_path(123456), K), (item_path(0), SIMILAR_K)):
        assert shared.get(path, k=limit).status_code == 200
        status, code, message = shared.error(path, k=limit + 1)
        assert (status, code) == (422, "k_too_large")
        assert f"this release stores {limit}" in message


@pytest.mark.parametrize("query", [{"K": 5}, {"limit": 5}, {"k": 5, "exclude_": "x"}])
def test_an_unknown_query_parameter_is_422(shared: Service, query: dict[str, Any]) -> None:
    """A parameter that does nothing is refused by name, so that a typing error is not a silent default."""
    for path in (user_path(0), user_path(0, "history"), item_path(0)):
        status, code, message = shared.error(path, **query)
        assert (status, code) == (422, "invalid_request")
        assert f"query.{next(name for name in query if name != 'k')}" in message


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/users/0", 404, "not_found"),
        ("GET", "/v2/users/0/recommendations", 404, "not_found"),
        ("GET", "/v1/users/a%2Fb/recommendations", 404, "not_found"),
        ("GET", "/v1/users//recommendations", 404, "not_found"),
        ("POST", "/v1/users/0/recommendations", 405, "method_not_allowed"),
        ("DELETE", "/v1/releases", 405, "method_not_allowed"),
        ("PUT", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods_have_the_error_shape(
    shared: Service, method: str, path: str, status: int, code: str
) -> None:
    """Whatever is asked, an error is {error: {code, message}}."""
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()) == {"error"}
    assert answer.headers.get("allow") == ("GET" if status == 405 else None)


# -- OpenAPI, health, releases ---------------------------------------------------------------------------


def test_openapi_lists_every_route_with_its_errors(shared: Service) -> None:
    """What the service answers to is what /openapi.json says, and errors have one documented shape."""
    openapi = shared.client.get("/openapi.json").json()
    paths = {
        "/v1/users/{user_id}/recommendations": {"200", "422", "503"},
        "/v1/users/{user_id}/history": {"200", "404", "422", "503"},
        "/v1/items/{item_id}/similar": {"200", "404", "422", "503"},
    }
    assert set(openapi["paths"]) == {
        *paths,
        "/v1/releases",
        "/v1/releases/current",
        "/healthz",
        "/readyz",
    }
    for path, statuses in paths.items():
        responses = openapi["paths"][path]["get"]["responses"]
        assert set(responses) >= statuses
        for status in statuses - {"200"}:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"}
    assert "HTTPValidationError" not in openapi["components"]["schemas"]
    assert shared.client.get("/docs").status_code == 200


def test_health_and_readiness(shared: Service) -> None:
    """Up and ready are two questions; ready names the release."""
    assert shared.get("/healthz").json() == {"status": "ok"}
    expected = {"status": "ready", "release": shared.published.release.id, "problem": None}
    assert shared.get("/readyz").json() == expected


def test_nothing_published_is_503_and_becomes_ready_by_itself(shared: Service, tmp_path: Path) -> None:
    """Before the first night every answer is 503 no_release, except that the process is up; then it serves."""
    waiting = served(
        Published(open_store(str(tmp_path / "store")), shared.published.run, shared.published.release)
    )
    for path in ("/readyz", user_path(0), user_path(0, "history"), item_path(0)):
        assert waiting.error(path)[:2] == (503, "no_release")
    assert waiting.get("/healthz").status_code == 200
    assert waiting.get("/v1/releases").json() == {"current": None, "releases": [], "broken": {}}
    nothing = {"current": None, "held": None, "pinned": False, "problem": None}
    assert waiting.get("/v1/releases/current").json() == nothing
    made.copied(shared.published, tmp_path)
    waiting.holder.refresh()
    assert waiting.get("/readyz").json()["release"] == shared.published.release.id
    assert waiting.get(user_path(0)).json() == shared.get(user_path(0)).json()


def test_releases_are_listed_with_the_current_one(service: Service, tmp_path: Path) -> None:
    """What is published, oldest first, with recipe, metrics and counts of the manifest."""
    first, second = service.published, another(service, tmp_path)
    listed = service.get("/v1/releases").json()
    assert listed["current"] == second.release.id
    assert [one["release"] for one in listed["releases"]] == sorted([first.release.id, second.release.id])
    by_id = {one["release"]: one for one in listed["releases"]}
    manifest = first.release.manifest
    assert by_id[first.release.id] == {
        "release": manifest.release,
        "created": manifest.created,
        "family": "als",
        "params": manifest.params,
        "metrics": manifest.metrics,
        "counts": manifest.counts,
    }


# -- the flip --------------------------------------------------------------------------------------------


def another(service: Service, folder: Path, *, seed: int = 1) -> Published:
    """A second release of the same users in the service's store, put in service there."""
    return made.published_release(
        folder / f"seed-{seed}", store=service.published.store.url, seed=seed, score=SCORE
    )


def damage(published: Published, name: str) -> None:
    path = published.folder / name
    path.write_bytes(path.read_bytes()[:-2])


def test_a_new_release_is_taken_over_on_refresh(service: Service, tmp_path: Path) -> None:
    """CURRENT is the truth: until the next look the old release answers, then the new one, to the bit."""
    old = service.get(user_path(0), k=K).json()
    new = another(service, tmp_path)
    assert service.get(user_path(0), k=K).json() == old
    assert service.get("/v1/releases/current").json() == {
        "current": new.release.id,
        "held": service.published.release.id,
        "pinned": False,
        "problem": None,
    }
    service.holder.refresh()
    answer = service.get(user_path(0), k=K).json()
    assert answer["release"] == new.release.id
    expected = stored(new, "recommendations", "user_id")[0]
    assert [(item["item_id"], item["score"]) for item in answer["items"]] == [
        (row["item_id"], row["score"]) for row in expected
    ]
    assert answer["items"] != old["items"]


def test_refresh_keeps_the_opened_release_where_nothing_moved(service: Service) -> None:
    """Looking at CURRENT every second costs one small read: the same release is not opened again."""
    held = service.holder.release
    service.holder.refresh()
    assert service.holder.release is held


@pytest.mark.parametrize("name", ["manifest.json", "popular.parquet", "arrays/model.json"])
def test_a_broken_release_is_refused_and_the_old_one_stays(
    service: Service, tmp_path: Path, name: str
) -> None:
    """CURRENT names a damaged release: answers go on from the old one, and readiness says why."""
    old = service.get(user_path(0)).json()
    broken = another(service, tmp_path)
    damage(broken, name)
    service.holder.refresh()
    assert service.get(user_path(0)).json() == old
    ready = service.get("/readyz").json()
    assert (ready["status"], ready["release"]) == ("ready", service.published.release.id)
    assert broken.release.id in ready["problem"]
    told = service.get("/v1/releases/current").json()
    assert (told["current"], told["held"]) == (broken.release.id, service.published.release.id)
    assert told["problem"] == ready["problem"]
    activate(service.published.store, service.published.release.id)
    service.holder.refresh()
    assert service.get("/readyz").json()["problem"] is None


def flip_header(path: Path) -> None:
    raw = path.read_bytes()
    assert raw.startswith(b"\x93NUMPY")
    path.write_bytes(raw.replace(b"'shape': (", b"'shape': ,", 1))


@pytest.mark.parametrize(
    "name", ["user_ids.npy", "item_ids.npy", "bucket_offsets.npy", "seen_offsets.npy", "seen_items.npy"]
)
def test_a_release_with_a_broken_array_header_is_refused(service: Service, tmp_path: Path, name: str) -> None:
    """Sizes are right, a header is not: found when the release is preloaded, not by the first user."""
    broken = another(service, tmp_path)
    flip_header(broken.folder / "arrays" / name)
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert name in ready["problem"]


def test_a_popular_table_of_nonsense_is_refused_when_preloading(service: Service, tmp_path: Path) -> None:
    """The right number of wrong bytes in the fallback table: refused by name, the old release stays."""
    broken = another(service, tmp_path)
    path = broken.folder / "popular.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    service.holder.refresh()
    assert service.holder.release.id == service.published.release.id
    assert "popular.parquet" in service.get("/readyz").json()["problem"]


def test_a_failure_that_nobody_foresaw_is_a_problem_too(service: Service, tmp_path: Path) -> None:
    """Text that is no UTF-8 fails deep inside a library: the old release stays and the watching goes on."""
    broken = another(service, tmp_path)
    path = broken.folder / "arrays" / "titles.bytes.npy"
    path.write_bytes(path.read_bytes()[:128] + b"\xff" * (path.stat().st_size - 128))
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert "cannot be opened (UnicodeDecodeError)" in ready["problem"]


def test_a_pin_stays_and_its_release_is_said(service: Service, tmp_path: Path) -> None:
    """user_config {release: ID} holds that release whatever CURRENT says; null follows CURRENT again."""
    new, held = another(service, tmp_path), service.published.release.id
    service.holder.follow(held)
    told = service.get("/v1/releases/current").json()
    assert told == {"current": new.release.id, "held": held, "pinned": True, "problem": None}
    assert service.get(user_path(0)).json()["release"] == held
    service.holder.pin = None
    service.holder.refresh()
    assert service.get(user_path(0)).json()["release"] == new.release.id


def test_a_pin_on_a_release_that_does_not_exist_keeps_the_old_one(service: Service) -> None:
    """A wrong pin is a visible problem, not an outage."""
    service.holder.pin = "20010101T000000Z-0123456789ab"
    service.holder.refresh()
    ready = service.get("/readyz").json()
    assert ready["release"] == service.published.release.id
    assert "20010101T000000Z-0123456789ab does not exist" in ready["problem"]
    assert service.published.store.url not in ready["problem"]


def test_a_pinned_first_release_is_opened_by_follow(service: Service, tmp_path: Path) -> None:
    """A replica that starts pinned opens the pinned release and never the one that CURRENT names."""
    another(service, tmp_path)
    holder = ReleaseHolder(service.published.store)
    holder.follow(service.published.release.id)
    assert holder.release.id == service.published.release.id


def test_the_following_thread_survives_a_store_that_breaks_and_heals(
    service: Service, tmp_path: Path
) -> None:
    """The thread that watches CURRENT goes on after any failure: when the store is well again, it flips."""
    store, holder = service.published.store, ReleaseHolder(service.published.store)
    holder.follow()
    store.put(CURRENT, b"no release id at all\n")
    for _ in range(3):
        holder.follow()
        wait_until(lambda: holder.problem is not None)
    assert holder.release.id == service.published.release.id
    store.put(CURRENT, f"{service.published.release.id}\n".encode())
    new = another(service, tmp_path)
    holder.follow()
    wait_until(lambda: holder.release.id == new.release.id and holder.problem is None)


def wait_until(true: Any) -> None:
    ended = threading.Event()
    for _ in range(1000):
        if true():
            return
        ended.wait(0.01)
    raise AssertionError("it did not happen within 10 s")


def test_answers_during_flips_come_from_one_release_only(service: Service, tmp_path: Path) -> None:
    """Under constant flipping every answer is whole: release id, items and scores all of the same release."""
    releases = [service.published, another(service, tmp_path)]
    users = made.make_ids(8, kind="int64")
    expected = {
        one.release.id: {
            user: [
                (row["item_id"], row["score"])
                for row in stored(one, "recommendations", "user_id").get(user, [])
            ]
            for user in users
        }
        for one in releases
    }
    stop, seen, wrong = threading.Event(), set(), []

    def flip() -> Iterator[None]:
        while not stop.is_set():
            for one in releases:
                service.published.store.put(CURRENT, f"{one.release.id}\n".encode())
                service.holder.refresh()
            yield

    def ask() -> None:
        client = Client(service.api)
        for turn in range(120):
            user = users[turn % len(users)]
            answer = client.get(user_path(user), k=K).json()
            seen.add(answer["release"])
            if [(item["item_id"], item["score"]) for item in answer["items"]] != expected[answer["release"]][
                user
            ]:
                wrong.append(answer)

    flipper = threading.Thread(target=lambda: [None for _ in flip()])
    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in (flipper, *askers):
        thread.start()
    for thread in askers:
        thread.join()
    stop.set()
    flipper.join()
    assert wrong == []
    assert seen == set(expected)


# -- errors tell nothing about the machine ---------------------------------------------------------------


def assert_discreet(service: Service, answer: httpx.Response) -> None:
    text = answer.text
    for secret in (service.published.store.url, "/tmp", "Traceback", "site-packages", ".py", "/work"):
        assert secret not in text
    assert answer.status_code < 600


def break_current(service: Service) -> None:
    service.published.store.delete(CURRENT)
    service.published.store.path(CURRENT).mkdir()


def garble_current(service: Service) -> None:
    service.published.store.put(CURRENT, b"\xff/etc/passwd\n")


def drop_list_arrays(service: Service) -> None:
    for path in (service.published.folder / "arrays" / "recommendations").iterdir():
        path.unlink()


def garble_list_arrays(service: Service) -> None:
    for table in ("recommendations", "similar_items"):
        for path in (service.published.folder / "arrays" / table).iterdir():
            path.write_bytes(b"\0" * path.stat().st_size)


def break_manifest(service: Service) -> None:
    (service.published.folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    "harm", [break_current, garble_current, drop_list_arrays, garble_list_arrays, break_manifest]
)
def test_errors_carry_no_path_and_no_trace(service: Service, harm: Any) -> None:
    """Whatever becomes of the store, no answer tells where it is or how the code looks."""
    harm(service)
    service.holder.refresh()
    fresh = ReleaseHolder(service.published.store)
    fresh.refresh()
    broken = Service(service.published, fresh, build_api(fresh), service.client)
    failed = 0
    for api in (service.api, broken.api):
        client = Client(api)
        for path in (
            user_path(0),
            user_path(1),
            user_path(0, "history"),
            item_path(0),
            "/v1/releases",
            "/v1/releases/current",
            "/readyz",
            "/healthz",
        ):
            answer = client.get(path)
            assert_discreet(service, answer)
            failed += answer.status_code >= 500
            if answer.status_code >= 500:
                assert answer.status_code == 503
                check_documented(api, answer)
    assert failed > 0


def test_a_removed_store_changes_nothing_for_those_who_hold_a_release(service: Service) -> None:
    """A store that went away is no outage: what is mapped goes on answering, and the problem is told."""
    whole = service.get(user_path(0)).json()
    Path(service.published.store.url).rename(Path(service.published.store.url).with_name("gone"))
    service.holder.refresh()
    assert service.get(user_path(0)).json() == whole
    assert "names no current release any more" in service.get("/readyz").json()["problem"]


def test_an_unexpected_failure_is_a_500_in_the_error_shape(service: Service) -> None:
    """A bug of ours is internal_error without a trace, not the framework's plain text."""

    @service.api.get("/broken")
    def broken() -> None:
        raise KeyError(str(service.published.folder))

    answer = Client(service.api).get("/broken")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert_discreet(service, answer)


def test_publish_is_what_made_the_current_release(shared: Service) -> None:
    """A rerun of the stage that published what the service holds changes nothing that the service sees."""
    before = shared.get("/v1/releases").json()
    publish(shared.published.run)
    shared.holder.refresh()
    assert shared.get("/v1/releases").json() == before
