"""HTTP refusals: one documented error shape, what is wrong by name, and nothing about the machine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

import asked
import made
from asked import SIMILAR_K, Client, Service, check_documented, item_path, kind_of, refusal, served, user_path
from nightrank.config.service import LimitsSettings
from nightrank.release.manifest import CURRENT
from nightrank.release.reader import Release
from nightrank.service import reading
from nightrank.service.answers import RequestError, parse_id
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
any_ids = asked.any_ids
shared = asked.shared
service = asked.service


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


@pytest.mark.parametrize("k", ["0", "-1", "x", "1.5", "", "9" * 30])
def test_k_that_makes_no_sense_is_422(shared: Service, k: str) -> None:
    """k is refused where it is no whole number from 1 on, and the message names it."""
    for path in (user_path(0), user_path(0, "history"), item_path(0)):
        status, code, message = shared.error(path, k=k)
        assert (status, code) == (422, "invalid_request")
        assert "query.k" in message


def test_k_beyond_the_limit_is_422(shared: Service) -> None:
    """A list is never silently shorter than asked for: similar items end at what is stored, others at limits.k."""
    for path, limit in (
        (user_path(0), 1_000),
        (user_path(123456), 1_000),
        (user_path(0, "history"), 1_000),
        (item_path(0), SIMILAR_K),
    ):
        assert shared.get(path, k=limit).status_code == 200
        status, code, message = shared.error(path, k=limit + 1)
        assert (status, code) == (422, "k_too_large")
        assert str(limit) in message


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
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)


def test_bytes_that_are_no_text_are_422(any_ids: Service) -> None:
    """Two broken ids must not become one; U+FFFD itself, well encoded, is an id like any other text."""
    for path in ("/v1/users/%ff/recommendations", "/v1/users/a%fe/history", "/v1/items/%c3/similar"):
        assert refusal(any_ids.client.get(path))[:2] == (422, "invalid_request")
    assert refusal(any_ids.client.get("/v1/users/0/recommendations?exclude=%ff"))[:2] == (
        422,
        "invalid_request",
    )
    if kind_of(any_ids) == "string":
        assert any_ids.get(user_path("\ufffd")).json()["source"] == "popular"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predictions", {"pairs": [0] * 100_000}),
        ("/v1/predictions", {"pairs": [{}] * 50_000}),
        ("/v1/recommendations", {"exclude": [[]] * 100_000}),
        ("/v1/recommendations", {"candidates": [None] * 100_000}),
        ("/v1/recommendations", {"events": [{}] * 100_000}),
        ("/v1/recommendations", {"requests": [{"k": 0}] * 50_000}),
        ("/v1/recommendations", {f"key {number}": 1 for number in range(50_000)}),
        ("/v1/recommendations", {"features": {str(number): {} for number in range(50_000)}}),
    ],
)
def test_a_megabyte_of_mistakes_is_not_listed(
    shared: Service, path: str, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing each would take seconds, in which nobody is answered: validation stops, or they are counted."""
    listed = []
    told = reading._told

    def counted(what: str, error: ValidationError) -> str:
        text = told(what, error)
        listed.append(error.error_count() if "problems, expected" not in text else 0)
        return text

    monkeypatch.setattr(reading, "_told", counted)
    status, code, message = refusal(shared.post(path, body))
    assert (status, code) == (422, "invalid_request")
    assert len(message) < 1_000
    assert listed[0] <= 100


def test_limits_hold_for_every_call(shared: Service) -> None:
    """limits.k is the default too where it is less than 10, and a batch asks for limits.ids items at most."""
    few = served(shared.published, limits=LimitsSettings(k=5, ids=20))
    assert len(few.get(item_path(0)).json()["items"]) == 5
    assert few.error(item_path(0), k=6)[:2] == (422, "k_too_large")
    assert len(few.post("/v1/recommendations", {"user_id": 0}).json()["items"]) == 5
    assert refusal(few.post("/v1/recommendations", {"requests": [{"k": 5}] * 5}))[:2] == (
        422,
        "too_many_ids",
    )
    assert few.post("/v1/recommendations", {"requests": [{"k": 5}] * 4}).status_code == 200


# -- errors tell nothing about the machine ---------------------------------------------------------------


def assert_discreet(service: Service, answer: httpx.Response) -> None:
    text = answer.text
    for secret in (service.published.store.url, "/tmp", "Traceback", "site-packages", ".py", "/work"):
        assert secret not in text
    assert answer.status_code < 600


def break_current(service: Service) -> None:
    service.published.store.delete(CURRENT)
    made.place(service.published.store, CURRENT).mkdir()


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


def test_an_unexpected_failure_is_a_500_in_the_error_shape(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is internal_error without a trace, not the server's plain text."""

    def broken(*_: object) -> None:
        raise KeyError(str(service.published.folder))

    monkeypatch.setattr(Release, "listed", broken)
    answer = service.get(user_path(0))
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert_discreet(service, answer)
