"""Events in a request: a vector solved from them and the stored history, by the release's own rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import asked
import made
from asked import Service, refusal, served, user_path
from nightrank.models.fold_in import fold_in
from nightrank.ranking import ItemIndex

shared = asked.shared

RECOMMENDATIONS = "/v1/recommendations"
TYPES = {"View": 1.0, "Purchase": 5.0, "Return": 0.0}


def service_of(folder: Path, family: str, params: dict[str, Any], **events: Any) -> Service:
    """A release of a family; `events` are settings of the job's events."""
    job: dict[str, Any] = {"train": {"model": family, "params": params}, "score": asked.SCORE}
    if "type_weights" in events:
        table = made.make_events()
        job["events"] = table.append_column("event_type", [["View"] * len(table)])
    return served(made.published_release(folder, weighing=events, **job))


def ranked(
    service: Service, weights: dict[int, float], *, hidden: set[int], k: int
) -> list[tuple[Any, float]]:
    """What the fold-in and the engine give for these weights by item id: the test's own way to the answer."""
    model = service.published.release.model
    rows = sorted((model.item_ids.find(item), weight) for item, weight in weights.items())
    cells = csr_matrix(
        (np.array([weight for _, weight in rows], np.float32), [row for row, _ in rows], [0, len(rows)]),
        shape=(1, made.N_ITEMS),
    )
    items = np.array(model.item_vectors)
    fold = fold_in(model.card.family, params=model.card.params, item_vectors=items)
    found = ItemIndex(items, np.array(model.item_bias)).top_k(fold(cells).vectors, made.N_ITEMS)
    pairs = zip(found.item_rows[0].tolist(), found.scores[0].tolist(), strict=True)
    named = [(model.item_ids[row], score) for row, score in pairs]
    return [pair for pair in named if pair[0] not in hidden][:k]


def history(service: Service, user_id: int) -> dict[int, float]:
    answer = service.get(user_path(user_id, "history"), k=1000).json()
    return {item["item_id"]: item["weight"] for item in answer["items"]}


def listed(answer: dict[str, Any]) -> list[tuple[Any, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


@pytest.mark.parametrize(
    ("family", "params"),
    [
        ("als", {"factors": 8, "epochs": 3}),
        ("ials", {"factors": 8, "epochs": 3}),
        ("svd", {"factors": 8}),
    ],
)
def test_events_of_a_stranger_are_folded_in(tmp_path: Path, family: str, params: dict[str, Any]) -> None:
    """A list from events alone; they are not in it; somebody unknown with them is no longer nobody."""
    service = service_of(tmp_path, family, params)
    events = [{"item_id": 3, "weight": 5.0}, {"item_id": 17, "weight": 2.0}, {"item_id": 3, "weight": 4.0}]
    combined = {3: 4.0 if family == "svd" else 9.0, 17: 2.0}  # the last rating, else the sum
    for user in ({}, {"user_id": 1}):
        answer = service.post(RECOMMENDATIONS, user | {"events": events, "k": 12}).json()
        assert (answer["source"], answer["user_id"]) == ("fold_in", user.get("user_id"))
        assert listed(answer) == ranked(service, combined, hidden={3, 17}, k=12)


def test_a_known_users_history_counts_with_the_events(shared: Service) -> None:
    """History and events together make the vector, and neither is recommended, unless seen items are asked for."""
    before = history(shared, 0)
    again = next(iter(before))
    fresh = next(item for item in made.make_ids(made.N_ITEMS, kind="int64") if item not in before)
    events = [{"item_id": again, "weight": 2.0}, {"item_id": fresh}]
    weights = before | {again: before[again] + 2.0, fresh: 1.0}
    answer = shared.post(RECOMMENDATIONS, {"user_id": 0, "events": events, "k": 15}).json()
    assert answer["source"] == "fold_in"
    assert listed(answer) == ranked(shared, weights, hidden=set(weights), k=15)
    all_shown = {"user_id": 0, "events": events, "k": 15, "include_seen": True}
    assert listed(shared.post(RECOMMENDATIONS, all_shown).json()) == ranked(
        shared, weights, hidden=set(), k=15
    )


def test_a_family_without_a_fold_in_uses_the_stored_vector(tmp_path: Path) -> None:
    """bpr: a known user's own list without the events (`live`), a stranger's popular items without them."""
    service = service_of(tmp_path, "bpr", {"factors": 8, "epochs": 2})
    whole = service.get(user_path(0), k=20).json()
    first = whole["items"][0]["item_id"]
    answer = service.post(RECOMMENDATIONS, {"user_id": 0, "events": [{"item_id": first}], "k": 20}).json()
    assert answer["source"] == "live"
    assert listed(answer)[:19] == listed(whole)[1:]
    popular = service.get(user_path(1), k=20).json()
    first = popular["items"][0]["item_id"]
    answer = service.post(RECOMMENDATIONS, {"events": [{"item_id": first}], "k": 20}).json()
    assert answer["source"] == "popular"
    assert listed(answer)[:19] == listed(popular)[1:]


def test_types_weigh_as_in_the_release(tmp_path: Path) -> None:
    """Weight times the type's weight, summed; a type that weighs nothing is excluded and counts for nothing."""
    columns = made.COLUMNS | {"type": "event_type"}
    service = service_of(
        tmp_path, "als", {"factors": 8, "epochs": 3}, columns=columns, type_weights=TYPES, combine="sum"
    )
    events = [
        {"item_id": 3, "type": "Purchase"},
        {"item_id": 3, "type": "View", "weight": 0.5},
        {"item_id": 17, "type": "Return"},
    ]
    answer = service.post(RECOMMENDATIONS, {"events": events, "k": 12}).json()
    assert listed(answer) == ranked(service, {3: 5.5}, hidden={3, 17}, k=12)
    only_returned = service.post(RECOMMENDATIONS, {"events": [events[2]], "k": 40}).json()
    assert only_returned["source"] == "popular"
    assert 17 not in [item for item, _ in listed(only_returned)]
    wrong = service.post(RECOMMENDATIONS, {"events": [{"item_id": 3, "type": "purchase"}]})
    assert refusal(wrong)[:2] == (422, "unknown_type")
    assert "did you mean Purchase?" in refusal(wrong)[2]


def test_events_on_unknown_items_are_told(shared: Service) -> None:
    """They cannot be folded in: named, and where nothing is left, the answer is what it is without events."""
    answer = shared.post(RECOMMENDATIONS, {"events": [{"item_id": 123_456_789}]}).json()
    assert (answer["source"], answer["unknown_items"]) == ("popular", [123_456_789])
    answer = shared.post(RECOMMENDATIONS, {"user_id": 0, "events": [{"item_id": 123_456_789}]}).json()
    assert (answer["source"], answer["unknown_items"]) == ("live", [123_456_789])
    assert listed(answer) == listed(shared.get(user_path(0)).json())


@pytest.mark.parametrize("weight", [1e308, 1e-46, 0.0])
def test_weights_beyond_what_can_be_solved_are_422(shared: Service, weight: float) -> None:
    """Not infinite vectors, not vectors of nothing, not a 500."""
    status, code, message = refusal(
        shared.post(RECOMMENDATIONS, {"events": [{"item_id": 3, "weight": weight}]})
    )
    assert (status, code) == (422, "invalid_request")
    assert "body.events.0.weight" in message
