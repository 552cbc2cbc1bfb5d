"""Calls that steer the service: who may make them, activation and rollback, figures; and bodies that nobody wants."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

import asked
import made
from asked import Client, Service, another, refusal, served, user_path
from nightrank.config.service import LimitsSettings
from nightrank.release.manifest import current
from nightrank.service import activation, reading
from nightrank.service.key_file import add, listed, revoke
from nightrank.service.keys import Keys
from nightrank.service.meters import Meters

shared = asked.shared
ADMIN = "/v1/jobs/{}", "/v1/releases/{}/activate"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Keys, str, str]:
    """A key file with a reader and an admin, and both keys."""
    path = tmp_path / "keys.json"
    _, reader = add(path, role="read", name="reader")
    _, admin = add(path, role="admin", name="admin")
    return Keys(path), reader, admin


@pytest.fixture
def service(shared: Service, keys: tuple[Keys, str, str], tmp_path: Path) -> Service:
    """A service with keys on a store of its own."""
    return served(made.copied(shared.published, tmp_path), keys=keys[0])


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


def activate(service: Service, release_id: str, key: str) -> Any:
    return service.ask("POST", f"/v1/releases/{release_id}/activate", **bearer(key))


# -- keys ------------------------------------------------------------------------------------------------


def test_without_a_key_file_reads_are_open_and_admin_calls_are_not(shared: Service) -> None:
    """As the docs say of a service on loopback."""
    assert shared.get(user_path(0)).status_code == 200
    for method, path in (("POST", "/v1/releases/x/activate"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/x")):
        assert refusal(shared.ask(method, path, json={}))[:2] == (403, "no_keys")


def test_with_a_key_file_each_call_takes_its_role(service: Service, keys: tuple[Keys, str, str]) -> None:
    """No key and an unknown one are 401 everywhere under /v1; a reader's is 403 for admin calls; probes need none."""
    _, reader, admin = keys
    reads = [
        ("GET", user_path(0), {}),
        ("GET", user_path(0, "history"), {}),
        ("POST", "/v1/recommendations", {"json": {"user_id": 0}}),
        ("POST", "/v1/predictions", {"json": {"pairs": []}}),
        ("GET", "/v1/releases", {}),
        ("GET", "/v1/stats", {}),
    ]
    steers = [
        ("POST", "/v1/releases/x/activate", {}),
        ("POST", "/v1/jobs", {"json": {"stage": "train"}}),
        ("GET", "/v1/jobs/x", {}),
    ]
    for method, path, options in reads + steers:
        for headers in ({}, bearer("nr_" + "x" * 43), {"headers": {"Authorization": "Basic eDp5"}}):
            answer = service.ask(method, path, **options, **headers)
            assert refusal(answer)[:2] == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        told = service.ask(method, path, **options, **bearer(reader))
        assert told.status_code == 200 if (method, path, options) in reads else told.status_code == 403
        assert service.ask(method, path, **options, **bearer(admin)).status_code in (200, 404)
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert service.client.get(path).status_code == 200


def test_a_revoked_key_ends_with_the_next_look(service: Service, keys: tuple[Keys, str, str]) -> None:
    """Rotation needs no restart: the new key works, the old one no more, once the file was looked at."""
    found, reader, _ = keys
    _, new = add(found.path, role="read", name="new")
    old_id = next(one.id for one in listed(found.path) if one.name == "reader")
    revoke(found.path, old_id)
    found.refresh()
    assert refusal(service.ask("GET", user_path(0), **bearer(reader)))[:2] == (401, "unauthorized")
    assert service.ask("GET", user_path(0), **bearer(new)).status_code == 200


def test_a_key_file_that_breaks_is_seen_and_changes_nothing(
    service: Service, keys: tuple[Keys, str, str]
) -> None:
    """The keys read before stay in force, and readiness says so, without the path."""
    found, reader, _ = keys
    found.path.write_text("{")
    found.refresh()
    assert service.ask("GET", user_path(0), **bearer(reader)).status_code == 200
    problem = service.get("/readyz").json()["problem"]
    assert "the key file is refused" in problem
    assert str(found.path) not in problem


# -- activation ------------------------------------------------------------------------------------------


def test_activation_moves_current_and_rolls_back(
    service: Service, keys: tuple[Keys, str, str], tmp_path: Path
) -> None:
    """202 with what was in service before; the same call with that id goes back."""
    admin, first = keys[2], service.published.release.id
    second = another(service, tmp_path).release.id
    service.holder.refresh()
    for there, back in ((first, second), (second, first)):
        answer = activate(service, there, admin)
        assert answer.status_code == 202
        assert answer.json() == {"release": there, "state": "activated", "before": back}
        assert current(service.published.store)[0] == there
        service.holder.refresh()
        assert service.get("/readyz").json()["release"] == there


def test_what_cannot_be_activated_is_refused_and_nothing_moves(
    service: Service, keys: tuple[Keys, str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown: 404. Damaged: 409 with what is wrong, without a place. Pinned: 409."""
    admin, before = keys[2], service.published.release.id
    broken = another(service, tmp_path)
    service.ask("POST", f"/v1/releases/{before}/activate", **bearer(admin))
    path = broken.folder / "recommendations" / "part-00000-of-00004.parquet"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    status, code, message = refusal(activate(service, broken.release.id, admin))
    assert (status, code) == (409, "release_refused")
    assert "part-00000-of-00004.parquet" in message
    assert str(tmp_path) not in message
    assert (
        f"release {broken.release.id!r} was not put in service: release {broken.release.id} is damaged"
        in caplog.text
    )
    for unknown in ("nothing", "20261121T000000Z-000000000000", "a..b", "a%0Ab"):
        assert refusal(activate(service, unknown, admin))[:2] == (404, "unknown_release")
    assert "a\nb" not in caplog.text
    service.holder.pin = before
    assert refusal(activate(service, before, admin))[:2] == (409, "pinned")
    assert current(service.published.store)[0] == before


def test_a_long_verification_goes_on_without_its_caller(
    service: Service, keys: tuple[Keys, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 `verifying` where it takes longer than somebody waits; CURRENT moves all the same."""
    first, second = service.published.release.id, another(service, tmp_path).release.id
    monkeypatch.setattr(activation, "ACTIVATION_S", 0.0)

    async def scenario() -> dict[str, Any]:
        answer = await Client(service.api).asked("POST", f"/v1/releases/{first}/activate", **bearer(keys[2]))
        while current(service.published.store)[0] == second:
            await asyncio.sleep(0.01)
        return dict(answer.json())

    assert asyncio.run(scenario()) == {"release": first, "state": "verifying", "before": None}


# -- figures ---------------------------------------------------------------------------------------------


def test_stats_count_what_was_answered(shared: Service) -> None:
    """By source, a batch's lists each; by status; with the seconds of the run's stages."""
    service = served(shared.published, meters=Meters(replica="r"))
    service.get(user_path(0))
    service.get(user_path(0), exclude="3")
    service.get(user_path(1))
    service.get(user_path(0), k=0)
    service.post("/v1/recommendations", {"requests": [{"user_id": 0}, {}, {"categories": ["none"]}]})
    told = service.get("/v1/stats").json()
    assert told["by_source"] == {"live": 1, "popular": 2, "precomputed": 2}
    documents = told["requests"]["by_route"]["/openapi.json"]  # read by the check of every answer
    assert told["requests"]["by_status"] == {"200": 4 + documents, "422": 1}
    assert told["fallback_share"] == pytest.approx(2 / 5)
    assert told["latency_ms"]["precomputed"]["p50"] > 0
    assert set(told["stages"]) == {"train", "score", "publish"}
    assert told["replica"] == "r"


def test_swaps_and_the_release_are_in_the_figures(service: Service, keys: tuple[Keys, str, str]) -> None:
    """The first release counts as a swap; a refused one is counted once, however long it is refused."""
    held = service.holder.meters.told()
    assert (held["release"], held["swaps"]) == (service.published.release.id, {"done": 1, "refused": 0})
    service.published.store.put("CURRENT", b"nonsense\n")
    service.holder.refresh()
    service.holder.refresh()
    assert service.holder.meters.told()["swaps"] == {"done": 1, "refused": 1}


# -- bodies ----------------------------------------------------------------------------------------------


async def sent(service: Service, parts: list[bytes | None], length: int | None = None) -> tuple[int, Any]:
    """Status and headers of a POST whose body comes in parts; None: nothing more comes."""
    left, answers = list(parts), []

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        if part is None:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommendations",
        "query_string": b"",
        "headers": headers,
    }
    await service.api(scope, receive, send)
    return answers[0]["status"], dict(answers[0]["headers"])


def test_a_body_beyond_the_limit_is_413_whether_it_says_so_or_not(shared: Service) -> None:
    """By its Content-Length before any of it is read, or as soon as more has come; the connection is closed."""
    small = served(shared.published, limits=LimitsSettings(body_bytes=1024))
    for parts, length in (([b"{}"], 1025), ([b"x" * 800, b"x" * 800, b"{}"], None)):
        status, headers = asyncio.run(sent(small, parts, length))
        assert (status, headers[b"connection"]) == (413, b"close")
    whole = b'{"user_id": 0}' + b" " * 1010
    assert asyncio.run(sent(small, [whole[:500], whole[500:]], len(whole)))[0] == 200


def test_a_body_that_never_ends_is_408(shared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its place for some seconds, not for ever."""
    monkeypatch.setattr(reading, "BODY_S", 0.05)
    status, headers = asyncio.run(sent(shared, [b'{"user', None]))
    assert (status, headers[b"connection"]) == (408, b"close")


def test_nothing_of_a_request_is_logged_but_its_id(
    shared: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error names the request by its id; keys, ids and bodies stay out of the log."""

    def broken(*_: object) -> None:
        raise OSError("broken")

    monkeypatch.setattr("nightrank.service.lists.recommend", broken)
    headers = {"Authorization": "Bearer nr_secret", "X-Request-ID": "abc-123"}
    with caplog.at_level(logging.DEBUG, logger="nightrank"):
        answer = shared.ask("POST", "/v1/recommendations", json={"user_id": 77_777}, headers=headers)
    assert answer.status_code == 500
    assert "abc-123" in caplog.text
    assert not any(text in caplog.text for text in ("nr_secret", "77777"))
