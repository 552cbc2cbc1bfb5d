"""Partitions as deployments: the bits of one process, one release in an answer, a partition that dies."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import made
from kills import workers
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.ranking import ItemIndex
from nightrank.release.publish import activate
from nightrank.release.reader import Release

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

PARTITIONS = 2
SCORE = {"k": 5, "buckets": 1, "similar_items_k": 5}
ASKED: list[dict[str, Any]] = [
    {"users": users, "k": k, "exclude": exclude, "allow": allow}
    for users, k in (([3], 10), ([4], 60), ([0, 7, 59], 7))
    for exclude in (False, True)
    for allow in (None, [0, 5, 19, 20, 21, 39])
]
Answer = dict[str, Any]
# Where the application lies, and that a replica which nobody asks any more need not wait 30 s before it ends.
ENV = {"PYTHONPATH": str(Path(__file__).parent), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0"}


def expected(release: Release, asked: dict[str, Any]) -> Answer:
    """What one process answers from this release."""
    model, allow = release.model, asked["allow"]
    top = ItemIndex(model.item_vectors, model.item_bias).top_k(
        model.user_vectors[asked["users"]],
        asked["k"],
        exclude=csr_matrix(model.seen[asked["users"]]) if asked["exclude"] else None,
        allow=None if allow is None else np.array(allow),
    )
    bits = top.scores.view(np.int32).tolist()
    return {
        "release": release.id,
        "rows": top.item_rows.tolist(),
        "scores": bits,
        "counts": top.counts.tolist(),
    }


class Gateway:
    """Two releases in a store, the expected answers of each, and the gateway over two partitions."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.url = cluster, f"http://127.0.0.1:{cluster.http_port}/live"
        first = made.published_release(folder / "first", score=SCORE)
        second = made.published_release(folder / "second", store=first.store.url, seed=1, score=SCORE)
        self.store, self.releases = first.store, (first.release, second.release)
        self.expected = {
            one.id: {place: expected(one, asked) for place, asked in enumerate(ASKED)}
            for one in self.releases
        }

    def wait(self) -> None:
        deadline = time.monotonic() + 90
        while (self.ask(0)[0]) != 200:
            assert time.monotonic() < deadline, "the gateway does not answer"
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

    def switch(self, times: int, *, pause_s: float = 0.3) -> None:
        """Move CURRENT to and fro."""
        for turn in range(times):
            activate(self.store, self.releases[turn % 2].id)
            time.sleep(pause_s)


@pytest.fixture(scope="module")
def gateway(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The application of live_gateway.py on the session's cluster, taken down again."""
    made_gateway = Gateway(cluster, tmp_path_factory.mktemp("live"))
    with applied_env(cluster):
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        client = ServeSubmissionClient(cluster.dashboard_url)
        application = {
            "name": "live",
            "route_prefix": "/live",
            "import_path": "live_gateway:build",
            "args": {
                "store": made_gateway.store.url,
                "live": {"partitions": PARTITIONS, "placement": "actors"},
            },
            "runtime_env": {"env_vars": ENV},
        }
        http = {"host": "127.0.0.1", "port": cluster.http_port}
        client.deploy_applications(
            {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}
        )
        try:
            made_gateway.wait()
            yield made_gateway
        finally:
            client.delete_applications()


def test_answers_have_the_bits_of_one_process(gateway: Gateway) -> None:
    """Protects exactness across processes: filters cut to shares, ties, k beyond the catalogue, several users."""
    held = gateway.ask(0)[1]["release"]
    for place in range(len(ASKED)):
        assert gateway.ask(place) == (200, gateway.expected[held][place])


def test_every_answer_is_of_one_release_while_they_change(gateway: Gateway) -> None:
    """Protects swaps: whichever release an answer names, it is that one's to the bit, and no query fails."""
    found = gateway.ask_while(lambda: gateway.switch(14))
    assert {status for _, status, _ in found} == {200}
    assert {answer["release"] for _, _, answer in found} == set(gateway.expected)
    for place, _, answer in found:
        assert answer == gateway.expected[answer["release"]][place]


def lose_a_partition(gateway: Gateway) -> None:
    """kill -9 of one replica, and time for another to take its place."""
    _, victim = next(workers(gateway.cluster, "Partition0"))
    victim.kill()
    victim.wait(10)
    time.sleep(1)
    gateway.wait()


@pytest.mark.soak
def test_partitions_killed_under_queries_and_swaps(gateway: Gateway) -> None:
    """Protects against half an answer: while a partition is gone, 503 by name; never a part, never a mixture."""

    def harm() -> None:
        for _ in range(5):
            gateway.switch(6)
            lose_a_partition(gateway)

    found = gateway.ask_while(harm)
    for place, status, answer in found:
        if status == 200:
            assert answer == gateway.expected[answer["release"]][place]
        else:
            assert (status, answer["error"]["code"]) == (503, "partition_unavailable")
    lost = sum(status != 200 for _, status, _ in found)
    assert 0 < lost < len(found) / 2
    gateway.switch(2)
    assert gateway.ask(0)[0] == 200
