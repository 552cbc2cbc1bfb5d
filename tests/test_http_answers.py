"""HTTP answers are the warehouse's rows to the bit; OpenAPI, health and the list of releases tell the truth."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

import asked
import made
from asked import SIMILAR_K, K, Service, another, item_path, kind_of, served, stored, titles, user_path
from made import Published
from nightrank.release.store import open_store
from nightrank.service import encoded, recommend

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
any_ids = asked.any_ids
shared = asked.shared
service = asked.service


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


def test_the_hot_route_sends_what_any_other_way_would(
    any_ids: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer encoded without a dictionary has the same bytes, also when it forgets items in between."""
    prepared = any_ids.holder.prepared
    for most in (65_536, 3):
        monkeypatch.setattr(encoded, "MOST_KEPT", most)
        lists = encoded.Encoded(prepared.release)
        for user_id in made.make_ids(made.N_USERS, kind=kind_of(any_ids)):
            for k in (1, 7, K):
                whole = recommend.stored(prepared.release, user_id, k=k)
                assert lists.stored(user_id, k) == orjson.dumps(whole)
    assert lists.stored({"int64": 1, "string": "nobody"}[kind_of(any_ids)], 5) is None


# -- OpenAPI, health, releases ---------------------------------------------------------------------------


def test_openapi_lists_every_route_with_its_errors(shared: Service) -> None:
    """What the service answers to is what /openapi.json says, and errors have one documented shape."""
    openapi = shared.client.get("/openapi.json").json()
    calls = {
        "GET /v1/users/{user_id}/recommendations": {"200", "401", "422", "503"},
        "POST /v1/recommendations": {"200", "400", "401", "408", "413", "422", "503"},
        "GET /v1/users/{user_id}/history": {"200", "401", "404", "422", "503"},
        "GET /v1/items/{item_id}/similar": {"200", "401", "404", "422", "503"},
        "POST /v1/predictions": {"200", "400", "401", "408", "413", "422", "503"},
        "GET /v1/releases": {"200", "503"},
        "GET /v1/releases/current": {"200", "503"},
        "POST /v1/releases/{release_id}/activate": {"202", "401", "403", "404", "409", "503"},
        "POST /v1/jobs": {"202", "401", "403", "404", "413", "422", "503"},
        "GET /v1/jobs/{job_id}": {"200", "401", "403", "404", "503"},
        "GET /v1/stats": {"200", "401", "503"},
        "GET /healthz": {"200"},
        "GET /readyz": {"200", "503"},
    }
    assert {f"{method.upper()} {path}" for path, one in openapi["paths"].items() for method in one} == set(
        calls
    )
    for call, statuses in calls.items():
        method, path = call.split()
        responses = openapi["paths"][path][method.lower()]["responses"]
        assert set(responses) >= statuses
        for status in set(responses) - {"200", "202"}:
            schema = responses[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"}


def test_the_page_for_people_loads_nothing(shared: Service) -> None:
    """A script from somebody else's host would run beside every answer, and read what is typed there."""
    page = shared.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script|<link|<iframe|<form|https?://", page.text)
    openapi = shared.client.get("/openapi.json").json()
    for path, methods in openapi["paths"].items():
        for method, one in methods.items():
            assert f"<h2><code>{method.upper()} {path}</code></h2>" in page.text
            assert page.text.count(f'id="{one["operationId"]}"') == 1
    targets = set(re.findall(r'href="#([^"]+)"', page.text))
    assert targets == set(re.findall(r' id="([^"]+)"', page.text))


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
    nothing = {"current": None, "held": None, "pinned": False, "problem": None, "activation": None}
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
