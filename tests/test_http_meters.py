"""What the service counts of its own calls, and what Serve's log and metrics call them."""

from __future__ import annotations

import re

from starlette.routing import Match

import asked
from asked import Service, served, user_path
from nightrank.service.prometheus import totals

shared = asked.shared


def test_stats_say_what_was_answered(shared: Service) -> None:
    """Calls, refusals and the lists of a batch, each in its place."""
    service = served(shared.published)  # with counts of its own
    known, unknown = service.published.release.model.user_ids[0], 987_654_321
    batch = {"requests": [{"user_id": known, "k": 2}, {"user_id": unknown, "k": 2}, {"k": 2, "events": []}]}
    for path in (user_path(known), user_path(unknown), user_path("no-number"), "/nothing/of/the/kind"):
        service.client.get(path, k=3)
    service.client.request("POST", "/v1/recommendations", json=batch)
    told = service.get("/v1/stats").json()
    assert told["requests"] == {
        "total": 5,
        "by_route": {"": 1, "/v1/recommendations": 1, "/v1/users/{user_id}/recommendations": 3},
        "by_status": {"200": 3, "404": 1, "422": 1},
    }
    assert told["by_source"] == {"popular": 3, "precomputed": 2}
    assert told["fallback_share"] == 3 / 5
    assert told["release"] == service.published.release.id
    assert told["swaps"] == {"done": 1, "refused": 0}


def test_labels_name_nobody(shared: Service) -> None:
    """A label with a user in it would be personal data, and a series of its own for each of them."""
    service = served(shared.published)
    for path in (
        user_path(987_654_321),
        user_path("no-number"),
        "/v1/987654321",
        "/v1/items/987654321/similar",
    ):
        service.client.get(path, k=3)
    labels = " ".join(text for _, values in totals(service.api.meters) for text in values)
    assert "{user_id}" in labels
    assert re.search("987654321|no-number", labels) is None


def test_serve_finds_the_route_of_a_call(shared: Service) -> None:
    """Its log and its metrics name the template: neither the path, with a user in it, nor "/" for every call."""
    for one in shared.api.operations:
        path = re.sub(r"\{\w+\}", "42", one.path)
        scope = {"type": "http", "method": one.method, "path": path, "root_path": ""}
        found = [route.path for route in shared.api.routes if route.matches(scope)[0] is Match.FULL]
        assert found[0] == one.path
