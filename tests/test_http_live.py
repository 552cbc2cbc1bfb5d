"""Answers that are ranked when they are asked for: the same bits as the night's, and nothing that was ruled out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import asked
import made
from asked import K, Service, kind_of, refusal, served, stored, user_path
from nightrank.errors import ReleaseError
from nightrank.ranking import ItemIndex
from nightrank.release.reader import Release
from nightrank.service.refusal import RequestError
from nightrank.service.schemas import Context

any_ids = asked.any_ids
shared = asked.shared

RECOMMENDATIONS = "/v1/recommendations"
UNKNOWN = {"int64": 1, "string": "nobody at all ü"}
BOTH = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


def listed(answer: dict[str, Any]) -> list[tuple[Any, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def seen_by(service: Service, user_id: Any) -> set[Any]:
    kind = kind_of(service)
    return {
        row["item_id"]
        for row in made.make_events(users=kind, items=kind).to_pylist()
        if row["user_id"] == user_id
    }


def categories_of(service: Service) -> dict[Any, set[str]]:
    table = pq.read_table(service.published.folder / "items.parquet").to_pylist()
    return {row["item_id"]: set(row["categories"]) for row in table}


def full_order(service: Service, user_id: Any) -> list[tuple[Any, float]]:
    """Every item with its score, best first, by the engine of the night over the stored vectors."""
    model = service.published.release.model
    row = model.user_ids.find(user_id)
    index = ItemIndex(np.array(model.item_vectors), np.array(model.item_bias))
    found = index.top_k(np.array(model.user_vectors[row : row + 1]), made.N_ITEMS)
    pairs = zip(found.item_rows[0].tolist(), found.scores[0].tolist(), strict=True)
    return [(model.item_ids[item], score) for item, score in pairs]


def popular_order(service: Service) -> list[tuple[Any, float]]:
    """Every item with its number of users, most first, ties by row."""
    model = service.published.release.model
    counts = model.popularity.tolist()
    return [
        (model.item_ids[row], float(counts[row]))
        for row in sorted(range(made.N_ITEMS), key=lambda row: (-counts[row], row))
    ]


def test_a_live_answer_to_a_plain_request_is_the_stored_one_to_the_bit(any_ids: Service) -> None:
    """Whoever adds a filter that rules out nothing gets the Parquet row, ranked anew."""
    lists = stored(any_ids.published, "recommendations", "user_id")
    unknown = UNKNOWN[kind_of(any_ids)]
    for user_id in made.make_ids(made.N_USERS, kind=kind_of(any_ids)):
        expected = [(row["item_id"], row["score"]) for row in lists.get(user_id, [])]
        live = any_ids.get(user_path(user_id), k=K, exclude=unknown).json()
        assert (live["source"], listed(live)) == ("live", expected)
        posted = any_ids.post(RECOMMENDATIONS, {"user_id": user_id, "k": K}).json()
        assert (posted["source"], listed(posted)) == ("precomputed", expected)


def test_a_larger_k_goes_on_where_the_stored_list_ends(shared: Service) -> None:
    """The catalogue is 40 items: k beyond the stored 20 gives all that the user has not seen."""
    answer = shared.get(user_path(0), k=100).json()
    assert answer["source"] == "live"
    seen = seen_by(shared, 0)
    assert listed(answer) == [pair for pair in full_order(shared, 0) if pair[0] not in seen]
    assert [item["rank"] for item in answer["items"]] == list(range(1, made.N_ITEMS - len(seen) + 1))


@pytest.mark.parametrize("include_seen", ["true", "false"])
def test_include_seen_ranks_what_was_seen_or_not(shared: Service, include_seen: str) -> None:
    """True ranks all; false is how this release was scored, so the stored list."""
    answer = shared.get(user_path(0), k=K, include_seen=include_seen).json()
    seen = seen_by(shared, 0) if include_seen == "false" else set()
    assert answer["source"] == {"true": "live", "false": "precomputed"}[include_seen]
    assert listed(answer) == [pair for pair in full_order(shared, 0) if pair[0] not in seen][:K]


def test_a_release_scored_with_seen_items_shows_them_unless_told_not_to(tmp_path: Path) -> None:
    """include_seen defaults to how the release was scored."""
    service = served(made.published_release(tmp_path, score=asked.SCORE | {"exclude_seen": False}))
    order, seen = full_order(service, 0), seen_by(service, 0)
    plain = service.get(user_path(0), k=K).json()
    assert (plain["source"], listed(plain)) == ("precomputed", order[:K])
    unseen = service.get(user_path(0), k=K, include_seen="false").json()
    assert (unseen["source"], listed(unseen)) == (
        "live",
        [pair for pair in order if pair[0] not in seen][:K],
    )


@given(data=st.data())
@BOTH
def test_filters_leak_nothing_and_fill_the_list(any_ids: Service, data: st.DataObject) -> None:
    """Any mixture of filters, for anybody: exactly the best of what is left, k of them where there are k."""
    kind = kind_of(any_ids)
    items, genres = made.make_ids(made.N_ITEMS, kind=kind), categories_of(any_ids)
    user_id = data.draw(st.sampled_from([*made.make_ids(12, kind=kind), UNKNOWN[kind]]))
    k = data.draw(st.integers(1, made.N_ITEMS + 5))
    wanted = data.draw(st.lists(st.sampled_from(made.GENRES), max_size=2))
    exclude = data.draw(st.lists(st.sampled_from(items), max_size=30))
    candidates = data.draw(st.none() | st.lists(st.sampled_from(items), max_size=30))
    include_seen = data.draw(st.none() | st.booleans())
    body = {"user_id": user_id, "k": k, "categories": wanted, "exclude": exclude, "candidates": candidates}
    answer = any_ids.post(RECOMMENDATIONS, body | {"include_seen": include_seen}).json()
    known = user_id != UNKNOWN[kind]
    hidden = set(exclude) | (seen_by(any_ids, user_id) if known and include_seen is not True else set())
    order = full_order(any_ids, user_id) if known else popular_order(any_ids)
    left = [
        pair
        for pair in order
        if pair[0] not in hidden
        and (candidates is None or pair[0] in candidates)
        and (not wanted or genres[pair[0]] & set(wanted))
    ]
    assert listed(answer) == left[:k]
    plain = not exclude and candidates is None and not wanted and include_seen is not True and k <= K
    assert answer["source"] == ("popular" if not known else "precomputed" if plain else "live")


def test_a_get_with_filters_is_the_post(shared: Service) -> None:
    """category and exclude repeat in a URL, where ids are texts."""
    items = made.make_ids(made.N_ITEMS, kind="int64")
    query = {"category": ["Drama", "Sci-Fi"], "exclude": [str(one) for one in items[:5]], "k": 7}
    body = {"user_id": 0, "categories": ["Drama", "Sci-Fi"], "exclude": items[:5], "k": 7}
    assert shared.get(user_path(0), **query).json() == shared.post(RECOMMENDATIONS, body).json()


def test_an_unknown_user_gets_what_is_popular_in_the_category(shared: Service) -> None:
    """The rows of popular.parquet for that category, from the top, and beyond what is stored there."""
    table = pq.read_table(shared.published.folder / "popular.parquet").to_pylist()
    for category in (None, *made.GENRES):
        expected = [(row["item_id"], row["score"]) for row in table if row["category"] == category]
        query = {} if category is None else {"category": category}
        answer = shared.get(user_path(1), k=len(expected), **query).json()
        assert (answer["source"], listed(answer)) == ("popular", expected)
    assert listed(shared.get(user_path(1), k=100).json()) == popular_order(shared)


def test_candidates_that_nobody_knows_are_told(shared: Service) -> None:
    """A candidate that is not in the release cannot be ranked: it is named, the others are ranked."""
    body = {"user_id": 0, "candidates": [123_456_789, 3, 3, 0, 123_456_789], "include_seen": True}
    answer = shared.post(RECOMMENDATIONS, body).json()
    assert answer["unknown_items"] == [123_456_789]
    assert listed(answer) == [pair for pair in full_order(shared, 0) if pair[0] in (0, 3)]
    assert "unknown_items" not in shared.post(RECOMMENDATIONS, {"user_id": 0, "candidates": [3]}).json()
    assert shared.post(RECOMMENDATIONS, {"user_id": 0, "candidates": []}).json()["items"] == []


def test_features_that_no_model_knows_are_told(shared: Service) -> None:
    """They change nothing, and nobody is left to believe that they did."""
    answer = shared.post(RECOMMENDATIONS, {"features": {"age": 30, "genres": ["a"]}}).json()
    assert (answer["source"], answer["user_id"]) == ("popular", None)
    assert answer["unknown_features"] == ["age", "genres"]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"user_id": "0"}, "invalid_id", "user_id '0' cannot be an id here; expected an int64"),
        ({"user_id": 0, "exclude": ["3"]}, "invalid_id", "exclude '3' cannot be"),
        ({"user_id": 0, "candidates": ["3"]}, "invalid_id", "candidates '3' cannot be"),
        ({"events": [{"item_id": "3"}]}, "invalid_id", "events '3' cannot be"),
        ({"events": [{"item_id": 3, "type": "Purchase"}]}, "unknown_type", "event type 'Purchase' is not"),
        ({"user_id": 0, "categories": ["Commedy"]}, "unknown_category", "did you mean Comedy?"),
        ({"user_id": 0, "k": 1_001}, "k_too_large", "k is 1001; expected at most 1000"),
        (
            {"exclude": list(range(10_001))},
            "too_many_ids",
            "10001 ids and values of features; expected at most 10000",
        ),
        ({"user_id": 0, "k": "3"}, "invalid_request", "body.k: Input should be a valid integer, found '3'"),
        ({"user_id": 0, "kk": 3}, "invalid_request", "body.kk: Extra inputs are not permitted"),
        ({"user_id": 0.5}, "invalid_request", "body.user_id"),
        ({"user_id": 2**63}, "invalid_request", "body.user_id"),
        ({"events": [{"item_id": 3, "weight": 0}]}, "invalid_request", "body.events.0.weight"),
        ({"requests": [{}, {"k": 0}]}, "invalid_request", "body.requests.1.k"),
        ({"requests": [{}] * 101}, "invalid_request", "body.requests: List should have at most 100 items"),
        ({"requests": [], "user_id": 3}, "invalid_request", "body.user_id: Extra"),
    ],
)
def test_a_body_that_cannot_be_meant_is_422(
    shared: Service, body: dict[str, Any], code: str, said: str
) -> None:
    """What was found, where, and what was expected."""
    status, found, message = refusal(shared.post(RECOMMENDATIONS, body))
    assert (status, found) == (422, code)
    assert said in message


def test_what_is_no_json_is_400(shared: Service) -> None:
    """Cut off, or no JSON at all."""
    for content in (b"", b"{", b"\xff", b"k=10"):
        answer = shared.ask("POST", RECOMMENDATIONS, content=content)
        assert refusal(answer)[:2] == (400, "invalid_json")


def test_a_batch_answers_in_order_and_a_bad_one_harms_nobody(shared: Service) -> None:
    """Each answer is that of the request alone; one that cannot be meant has its error in its place."""
    requests = [
        {"user_id": 0, "k": 3},
        {"user_id": "x"},
        {"user_id": 10, "categories": ["Drama"]},
        {"categories": ["No such"]},
        {"user_id": 1},
    ]
    responses = shared.post(RECOMMENDATIONS, {"requests": requests}).json()["responses"]
    alone = [shared.post(RECOMMENDATIONS, request) for request in requests]
    assert [one.status_code for one in alone] == [200, 422, 200, 422, 200]
    assert responses == [one.json() for one in alone]
    assert shared.post(RECOMMENDATIONS, {"requests": []}).json() == {"responses": []}


def test_a_batch_waits_once_for_a_partition_that_is_lost(shared: Service) -> None:
    """The first that needs it says so; after that stored lists are answered, and the others are not tried."""
    asked_for = []

    class Lost:
        def top_k(self, *_: Any, **__: Any) -> Any:
            asked_for.append(1)
            raise RequestError(503, "partition_unavailable", "a partition does not answer")

    prepared = dataclasses.replace(shared.holder.prepared, index=Lost())
    service = served(shared.published)
    service.holder.prepared = prepared
    requests = [{"user_id": 0}, {"user_id": 0, "exclude": [3]}, {"user_id": 10}, {"user_id": 10, "k": 30}]
    responses = service.post(RECOMMENDATIONS, {"requests": requests}).json()["responses"]
    assert ["error" in one for one in responses] == [False, True, False, True]
    assert responses[3]["error"]["code"] == "partition_unavailable"
    assert len(asked_for) == 1


def test_a_list_that_is_damaged_is_an_error_in_its_place(
    shared: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One user's damaged row is nobody else's matter."""
    whole, model = Release.recommendations, shared.published.release.model
    broken = model.user_ids.find(10)

    def read(release: Release, user_row: int, k: int | None = None) -> Any:
        if user_row == broken:
            raise ReleaseError("the row is damaged")
        return whole(release, user_row, k)

    monkeypatch.setattr(Release, "recommendations", read)
    requests = [{"user_id": 0}, {"user_id": model.user_ids[broken]}]
    responses = shared.post(RECOMMENDATIONS, {"requests": requests}).json()["responses"]
    assert responses[0]["source"] == "precomputed"
    assert responses[1]["error"]["code"] == "store_unavailable"


def test_a_model_without_vectors_answers_live_too(tmp_path: Path) -> None:
    """popularity has a bias alone; candidates and filters are ranked by it."""
    service = served(made.published_release(tmp_path, score=asked.SCORE, train={"model": "popularity"}))
    answer = service.post(RECOMMENDATIONS, {"user_id": 0, "k": 40, "include_seen": True}).json()
    assert (answer["source"], len(answer["items"])) == ("live", made.N_ITEMS)
    assert [item for item, _ in listed(answer)] == [item for item, _ in popular_order(service)]


def test_the_defaults_of_a_request_are_those_of_the_docs() -> None:
    """Nothing given: 10 popular items, nothing ruled out."""
    assert Context().model_dump(exclude_defaults=True) == {}
    assert (Context().k, Context().candidates, Context().include_seen) == (None, None, None)
