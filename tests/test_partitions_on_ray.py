"""The service with its catalogue in two deployments: the bits of one process, one release in an answer, kills."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import made
from asked import Client
from kills import workers
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.release.publish import activate
from nightrank.service.holder import ReleaseHolder
from nightrank.service.routes import build_api

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS = 2
SCORE = {"k": 5, "buckets": 1, "similar_items_k": 5}
USERS, ITEMS = made.make_ids(made.N_USERS, kind="int64"), made.make_ids(made.N_ITEMS, kind="int64")
ASKED: list[dict[str, Any]] = [
    {"user_id": USERS[3], "k": 10},
    {"user_id": USERS[4], "k": 60, "include_seen": True},
    {"user_id": USERS[5], "k": 9},
    {"user_id": USERS[7], "k": 7, "candidates": [ITEMS[place] for place in (39, 0, 19, 20, 21)]},
    {"user_id": USERS[59], "k": 5, "exclude": ITEMS[::3], "categories": ["Drama"]},
    {"events": [{"item_id": ITEMS[2]}, {"item_id": ITEMS[30]}], "k": 12},
    {"user_id": USERS[3], "k": 3},
]
STORED = len(ASKED) - 1
PATH = "/v1/recommendations"
Answer = dict[str, Any]


class Live:
    """Two releases in a store, what one process answers from each, and the service over two partitions."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.url = cluster, f"http://127.0.0.1:{cluster.http_port}{PATH}"
        first = made.published_release(folder / "first", score=SCORE)
        second = made.published_release(folder / "second", store=first.store.url, seed=1, score=SCORE)
        self.store, self.releases = first.store, (first.release, second.release)
        self.expected = {one.id: self.in_process(one.id) for one in self.releases}

    def in_process(self, release_id: str) -> list[Answer]:
        holder = ReleaseHolder(self.store)
        holder.pin = release_id
        holder.refresh()
        client = Client(build_api(holder))
        return [client.request("POST", PATH, json=asked).json() for asked in ASKED]

    def wait(self) -> None:
        deadline = time.monotonic() + 90
        while self.ask(0)[0] != 200:
            assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(0.2)

    def ask(self, place: int) -> tuple[int, Answer]:
        try:
            answer = httpx.post(self.url, json=ASKED[place], timeout=20)
            return answer.status_code, answer.json()
        except (httpx.TransportError, ValueError):  # before it is there
            return 0, {}

    def ask_while(self, act: Callable[[], object], *, callers: int = 3) -> list[tuple[int, int, Answer]]:
        """(which, status, answer) of all questions, again and again, as long as `act` runs."""
        done, turns = threading.Event(), itertools.count()

        def call() -> list[tuple[int, int, Answer]]:
            found = []
            while not done.is_set():
                place = next(turns) % len(ASKED)
                found.append((place, *self.ask(place)))
            return found

        with ThreadPoolExecutor(callers) as pool:
            running = [pool.submit(call) for _ in range(callers)]
            try:
                act()
            finally:
                done.set()
            return [one for each in running for one in each.result()]

    def switch(self, times: int, *, pause_s: float = 1.2) -> None:
        """Move CURRENT to and fro."""
        for turn in range(times):
            activate(self.store, self.releases[turn % 2].id)
            time.sleep(pause_s)


@pytest.fixture(scope="module")
def live(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The shipped serve_config.yaml with two partitions, on the session's cluster; taken down again."""
    folder = tmp_path_factory.mktemp("live")
    service = Live(cluster, folder)
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    application = raw["applications"][0]
    application["args"]["live"] = {"partitions": PARTITIONS, "placement": "actors"}
    # A replica that nobody asks any more need not wait 30 s before it ends.
    application["runtime_env"] = {"env_vars": {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"}}
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with applied_env(cluster):
        from nightrank.service.deploy import deploy, withdraw
        from nightrank.service.serve_config import load_serve_config

        config = load_serve_config(path)
        try:
            deploy(
                config, dashboard_url=cluster.dashboard_url, port=cluster.http_port, store=service.store.url
            )
            service.wait()
            yield service
        finally:
            withdraw(config, dashboard_url=cluster.dashboard_url)


def test_answers_have_the_bits_of_one_process(live: Live) -> None:
    """Protects exactness across processes, through the real service: filters cut to shares, k beyond the items."""
    held = live.ask(0)[1]["release"]
    sources = set()
    for place in range(len(ASKED)):
        status, answer = live.ask(place)
        assert (status, answer) == (200, live.expected[held][place])
        sources.add(answer["source"])
    assert sources == {"live", "fold_in", "precomputed"}


def test_every_answer_is_of_one_release_while_they_change(live: Live) -> None:
    """Protects swaps: whichever release an answer names, it is that one's to the bit, and no query fails."""
    found = live.ask_while(lambda: live.switch(5))
    assert {status for _, status, _ in found} == {200}
    assert {answer["release"] for _, _, answer in found} == set(live.expected)
    for place, _, answer in found:
        assert answer == live.expected[answer["release"]][place]


def lose_a_partition(live: Live) -> None:
    """kill -9 of one replica, and time for another to take its place."""
    _, victim = next(workers(live.cluster, "Partition0"))
    victim.kill()
    victim.wait(10)
    time.sleep(1)
    live.wait()


@pytest.mark.soak
def test_partitions_killed_under_queries_and_swaps(live: Live) -> None:
    """Protects against half an answer: while a partition is gone, live ones are 503 by name, stored ones go on."""

    def harm() -> None:
        for _ in range(5):
            live.switch(3)
            lose_a_partition(live)

    found = live.ask_while(harm)
    for place, status, answer in found:
        if status == 200:
            assert answer == live.expected[answer["release"]][place]
        else:
            assert place != STORED
            assert (status, answer["error"]["code"]) == (503, "partition_unavailable")
    lost = sum(status != 200 for _, status, _ in found)
    assert 0 < lost < len(found) / 2
    live.switch(2)
    assert live.ask(0)[0] == 200
