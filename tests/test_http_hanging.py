"""A store or a jobs API that hangs: who waits, who does not, and what is told of what went on meanwhile."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import asked
import made
from asked import Client, Service, another, check_documented, refusal, served
from nightrank.config.service import JobsSettings, ServiceArgs
from nightrank.release.manifest import current
from nightrank.release.publish import activate
from nightrank.release.store import LocalStore, Stored
from nightrank.service import activation, app, jobs_api
from nightrank.service import keys as keys_of_file
from nightrank.service.jobs import Jobs
from nightrank.service.key_file import add, revoke
from nightrank.service.keys import Keys

shared = asked.shared
CURRENT_RELEASE = "/v1/releases/current"


class HangingStore(LocalStore):
    """Reads of small objects wait until `heals` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.heals, self.is_asked = threading.Event(), threading.Event()

    def read(self, key: str) -> Stored | None:
        self.is_asked.set()
        self.heals.wait()
        return super().read(key)


class Admin:
    """A service with one admin key, on a store of its own; each answer is checked against OpenAPI."""

    def __init__(self, service: Service, key: str) -> None:
        self.service, self.client = service, Client(service.api)
        self.headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str) -> Any:
        return await self.client.asked(method, path, headers=self.headers)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections and says nothing; closed, it ends those that wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening


@pytest.fixture
def admin(shared: Service, silent: socket.socket, tmp_path: Path) -> Admin:
    """Its jobs API never answers."""
    _, key = add(tmp_path / "keys.json", role="admin")
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    jobs = Jobs(JobsSettings(address=address, config=str(tmp_path / "job.yaml")), told=str)
    published = made.copied(shared.published, tmp_path)
    return Admin(served(published, keys=Keys(tmp_path / "keys.json"), jobs=jobs), key)


@pytest.fixture
def outside_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica's class can be used in this process: what it asks Ray and Serve about itself is answered here."""
    for name in ("join_serves_log", "check_address", "export"):
        monkeypatch.setattr(app, name, lambda *_, **__: None)
    monkeypatch.setattr(app, "own_threads", lambda: 1)
    monkeypatch.setattr(app.serve, "get_replica_context", lambda: SimpleNamespace(replica_tag="r"))


def wait_until(true: Any) -> None:
    ended = threading.Event()
    for _ in range(1000):
        if true():
            return
        ended.wait(0.01)
    raise AssertionError("it did not happen within 10 s")


@pytest.mark.usefixtures("outside_ray")
def test_a_store_that_hangs_keeps_no_revoked_key_alive(
    shared: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key file is followed in a thread of its own, whatever the one that follows CURRENT waits for."""
    monkeypatch.setattr(keys_of_file, "EVERY_S", 0.01)
    record, key = add(tmp_path / "keys.json", role="read")
    store = HangingStore(Path(shared.published.store.url))
    monkeypatch.setattr(app, "open_store", lambda _: store)
    plain = app.Service.func_or_class.__mro__[1]  # as it stands in app.py, without what Serve wraps it in
    replica = plain(ServiceArgs(store=store.url, keys=str(tmp_path / "keys.json")))
    starts = threading.Thread(target=replica.reconfigure, args=({"release": None},))
    starts.start()
    try:
        assert store.is_asked.wait(10)
        assert replica.api.keys.role(f"Bearer {key}".encode()) == "read"
        revoke(tmp_path / "keys.json", record.id)
        wait_until(lambda: replica.api.keys.role(f"Bearer {key}".encode()) is None)
        assert starts.is_alive()
    finally:
        store.heals.set()
        starts.join()


def test_a_jobs_api_that_never_answers_holds_up_nothing_else(
    admin: Admin, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some calls for jobs wait, the next are sent away at once; releases, figures and activation go on."""
    monkeypatch.setattr(jobs_api, "TIMEOUT_S", 60.0)
    release = admin.service.published.release.id

    async def scenario() -> tuple[list[Any], list[Any]]:
        polls = [asyncio.ensure_future(admin.ask("GET", "/v1/jobs/x")) for _ in range(20)]
        sent_away, _ = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        calls = (("GET", CURRENT_RELEASE), ("GET", "/v1/stats"), ("GET", "/v1/releases"))
        others = [await admin.ask(*one) for one in (*calls, ("POST", f"/v1/releases/{release}/activate"))]
        sent_away = {one for one in polls if one.done()}
        silent.close()
        return others, [(one in sent_away, await one) for one in polls]

    others, polls = asyncio.run(scenario())
    assert [one.status_code for one in others] == [200, 200, 200, 202]
    for one in others:
        check_documented(admin.service.api, one)
    codes = {away: [refusal(one)[:2] for was, one in polls if was == away] for away in (True, False)}
    assert codes[True] == [(503, "overloaded")] * 12
    assert codes[False] == [(503, "jobs_unavailable")] * 8
    assert {one.headers["retry-after"] for away, one in polls if away} == {"5"}


def test_a_caller_who_leaves_frees_no_thread_that_hangs(
    admin: Admin, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places count the work, not the callers: giving up and asking again fills no queue without end."""
    monkeypatch.setattr(jobs_api, "TIMEOUT_S", 60.0)

    async def scenario() -> Any:
        for _ in range(4):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(admin.ask("GET", "/v1/jobs/x"), 0.05)
        polls = [asyncio.ensure_future(admin.ask("GET", "/v1/jobs/x")) for _ in range(5)]
        (first,), _ = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        silent.close()
        await asyncio.wait(polls)
        return first.result()

    assert refusal(asyncio.run(scenario()))[:2] == (503, "overloaded")


def test_one_activation_at_a_time(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one meanwhile is sent away, so that what is told of the last one is told of each."""
    began, goes_on = threading.Event(), threading.Event()
    release = admin.service.published.release.id

    def slow(*given: Any) -> str | None:
        began.set()
        goes_on.wait()
        return activate(*given)

    monkeypatch.setattr(activation, "activate", slow)

    async def scenario() -> Any:
        first = asyncio.ensure_future(admin.ask("POST", f"/v1/releases/{release}/activate"))
        await asyncio.to_thread(began.wait)
        try:
            second = await admin.ask("POST", f"/v1/releases/{release}/activate")
            told = (await admin.ask("GET", CURRENT_RELEASE)).json()["activation"]
        finally:
            goes_on.set()
        return second, told, await first

    second, told, first = asyncio.run(scenario())
    assert refusal(second)[:2] == (503, "overloaded")
    assert (told["release"], told["state"], told["reason"]) == (release, "verifying", None)
    assert first.json() == {"release": release, "state": "activated", "before": release}


@pytest.mark.parametrize("harm", ["damage", "bug"])
def test_what_is_refused_after_its_caller_left_is_told(
    admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """In /v1/releases/current with the reason and without a place, in figures and log; no exception is lost."""
    service, before = admin.service, admin.service.published.release.id
    broken = another(service, tmp_path)
    activate(service.published.store, before)
    monkeypatch.setattr(activation, "ACTIVATION_S", 0.0)
    if harm == "damage":
        (broken.folder / "popular.parquet").unlink()
    else:
        monkeypatch.setattr(activation, "activate", lambda *_: 1 / 0)
    lost: list[Any] = []

    async def scenario() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
        answers = [await admin.ask("GET", CURRENT_RELEASE)]
        answers.append(await admin.ask("POST", f"/v1/releases/{broken.release.id}/activate"))
        while service.holder.meters.activations["refused"] == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        gc.collect()
        return [*answers, await admin.ask("GET", CURRENT_RELEASE), await admin.ask("GET", "/v1/stats")]

    none, taken, told, stats = asyncio.run(scenario())
    for answer in (none, taken, told, stats):
        check_documented(service.api, answer)
    assert none.json()["activation"] is None
    assert (taken.status_code, taken.json()["state"]) == (202, "verifying")
    last = told.json()["activation"]
    assert (last["release"], last["state"]) == (broken.release.id, "refused")
    assert ("popular.parquet" if harm == "damage" else "ZeroDivisionError") in last["reason"]
    assert str(tmp_path) not in last["reason"]
    assert told.json()["current"] == current(service.published.store)[0] == before
    assert stats.json()["activations"] == {"done": 0, "refused": 1}
    assert f"release {broken.release.id!r} was not put in service" in caplog.text
    assert lost == []
