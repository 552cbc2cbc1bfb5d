"""Partitions without Ray: shares by release id, queries to them over a real event loop, and what can go wrong."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

import made
from made import Published
from nightrank.config.service import LiveSettings
from nightrank.errors import DataError, ReleaseError
from nightrank.ranking import ItemIndex, PartitionedIndex
from nightrank.service import live_index
from nightrank.service.live_index import RemoteIndex, RemoteOpener, index_opener
from nightrank.service.refusal import RequestError
from nightrank.service.shares import KEPT, Shares
from reference import assert_same, random_cells

SCORE = {"k": 5, "buckets": 1, "similar_items_k": 5}


class Wire:
    """What a handle is to RemoteIndex: it reaches a share in this process, by way of pickle, or fails as told."""

    def __init__(self, shares: Shares, *failures: Exception) -> None:
        self.shares, self.failures = shares, list(failures)
        self.opened: list[str] = []
        self.delay_s = 0.0
        self.rank = self

    async def remote(self, *arguments: Any) -> Any:
        await asyncio.sleep(self.delay_s)
        if self.failures:
            raise self.failures.pop(0)
        release_id, users, k, filters = pickle.loads(pickle.dumps(arguments))
        return self.shares.open(release_id).rank(users, k, filters)

    def broadcast(self, _: str, release_id: str) -> Wire:
        self.opened.append(release_id)
        return self

    async def results_async(self, *, timeout_s: float) -> list[str | None]:
        assert timeout_s > 0
        if self.failures:
            raise self.failures.pop(0)
        try:
            self.shares.open(self.opened[-1])
        except ReleaseError as error:
            return [None, str(error)]
        return [None, None]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Published, Published]:
    """Two releases of one store, which tests only read."""
    folder = tmp_path_factory.mktemp("two")
    first = made.published_release(folder / "first", score=SCORE)
    return first, made.published_release(folder / "second", store=first.store.url, seed=1, score=SCORE)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread, as a replica's does."""
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    running.call_soon_threadsafe(running.stop)
    thread.join()
    running.close()


def wires(published: Published, partitions: int) -> list[Wire]:
    return [
        Wire(Shares(published.store, place=place, partitions=partitions, threads=1))
        for place in range(partitions)
    ]


def remote(published: Published, handles: Any, loop: asyncio.AbstractEventLoop) -> RemoteIndex:
    return RemoteIndex(published.release, handles, loop=loop)


def lost() -> DeploymentUnavailableError:
    return DeploymentUnavailableError(DeploymentID(name="Partition0"))


@pytest.mark.parametrize("partitions", [1, 2, 3, 64])
def test_partitions_answer_as_one_index(two, loop, partitions) -> None:
    """Protects the bits over the wire: filters of every kind, more shares than items, k beyond them."""
    model, rng = two[0].release.model, np.random.default_rng(partitions)
    index = remote(two[0], wires(two[0], partitions), loop)
    users, expected = model.user_vectors[3:9], ItemIndex(model.item_vectors, model.item_bias)
    own, seen = (random_cells(rng, (6, model.card.n_items), share) for share in (0.3, 0.4))
    for allow in (None, own, np.array([5, 39, 5, 0]), np.array([], dtype=np.int64)):
        for exclude in (None, seen):
            for k in (0, 1, 10, 100):
                filters = {"exclude": exclude, "allow": allow}
                assert_same(index.top_k(users, k, **filters), expected.top_k(users, k, **filters))


def test_queries_at_once_are_not_mixed(two, loop) -> None:
    """Protects the gateway, whose threads all ask over one loop, of two releases in the middle of a swap."""
    handles = wires(two[0], 2)
    indexes = [remote(one, handles, loop) for one in two]
    with ThreadPoolExecutor(8) as callers:

        def ask(turn: int) -> Any:
            return indexes[turn % 2].top_k(two[turn % 2].release.model.user_vectors[turn // 2 :][:1], 7)

        found = list(callers.map(ask, range(100)))
    for turn, answer in enumerate(found):
        model = two[turn % 2].release.model
        expected = ItemIndex(model.item_vectors, model.item_bias).top_k(
            model.user_vectors[turn // 2 :][:1], 7
        )
        assert_same(answer, expected)


def refused(index: RemoteIndex, published: Published) -> RequestError:
    with pytest.raises(RequestError) as caught:
        index.top_k(published.release.model.user_vectors[:1], 3)
    assert (caught.value.status, caught.value.code) == (503, "partition_unavailable")
    assert caught.value.headers == {"Retry-After": "1"}
    return caught.value


def test_an_answer_of_another_release_is_none(two, loop, caplog) -> None:
    """Protects the one release of an answer from a partition that answers for another."""
    handles = wires(two[0], 2)
    wrong = handles[1].shares.open(two[1].release.id)
    handles[1].shares.open = lambda _: wrong  # type: ignore[method-assign]
    refused(remote(two[0], handles, loop), two[0])
    assert f"partition 1 answers for ('{two[1].release.id}'" in caplog.text


def test_an_answer_of_another_share_is_none(two, loop) -> None:
    """Protects a service deployed with another number of partitions while old ones still run."""
    handles = wires(two[0], 2)
    handles[1] = wires(two[0], 3)[1]
    refused(remote(two[0], handles, loop), two[0])


def test_a_query_is_asked_once_more_where_a_replica_died(two, loop) -> None:
    """Protects callers from the loss of one replica of several."""
    handles = wires(two[0], 2)
    index = remote(two[0], handles, loop)
    handles[0].failures = [RayActorError()]
    assert index.top_k(two[0].release.model.user_vectors[:1], 3).counts.tolist() == [3]


def test_a_failing_partition_is_told_once_and_names_nothing(two, loop, caplog) -> None:
    """Protects log and callers: one line until it is well again, and no inner word in the answer."""
    handles = wires(two[0], 2)
    index = remote(two[0], handles, loop)
    for _ in range(2):
        for failures in ([RayActorError(), RayActorError()], [ValueError("/srv/secret")]):
            handles[0].failures = failures
            assert "/srv" not in str(refused(index, two[0]))
    assert caplog.text.count("partitions do not answer") == 1
    index.top_k(two[0].release.model.user_vectors[:1], 3)
    handles[0].failures = [ValueError("again")]
    refused(index, two[0])
    assert caplog.text.count("partitions do not answer") == 2


def test_a_partition_that_hangs_is_not_waited_for(two, loop, monkeypatch) -> None:
    """Protects the gateway's threads from a partition that neither answers nor dies."""
    monkeypatch.setattr(live_index, "RANK_S", 0.05)
    handles = wires(two[0], 2)
    handles[0].delay_s = 30.0
    refused(remote(two[0], handles, loop), two[0])


def test_wrong_queries_are_refused_before_they_are_sent(two, loop) -> None:
    """Protects partitions, which trust what they are sent."""
    handles = wires(two[0], 2)
    handles[0].failures = [ValueError("was asked")]
    index = remote(two[0], handles, loop)
    with pytest.raises(DataError, match="allow names rows outside"):
        index.top_k(two[0].release.model.user_vectors[:1], 3, allow=np.array([10_000]))
    assert handles[0].failures


def test_a_release_is_opened_everywhere_before_it_is_used(two, loop, monkeypatch) -> None:
    """Protects the first query after a swap: all replicas have it, also those that were still starting."""
    monkeypatch.setattr(live_index, "AGAIN_S", 0.01)
    handles = wires(two[0], 2)
    handles[1].failures = [lost(), RayActorError(), lost()]
    remote(two[0], handles, loop).prepare(timeout_s=5.0)
    for handle in handles:
        assert handle.shares.find(two[0].release.id) is not None


def test_what_a_partition_cannot_open_is_told(two, loop, tmp_path) -> None:
    """Protects operators: the message has the partition and its reason."""
    elsewhere = made.copied(two[0], tmp_path)
    (elsewhere.folder / "manifest.json").unlink()
    handles = [wires(two[0], 2)[0], wires(elsewhere, 2)[1]]
    with pytest.raises(ReleaseError, match=r"not open in all partitions \(partition 1: release"):
        remote(two[0], handles, loop).prepare(timeout_s=5.0)


def test_only_the_first_release_goes_ahead_of_its_partitions(two, loop, monkeypatch, caplog) -> None:
    """Protects stored answers, which need no partition, and afterwards the release in service."""
    monkeypatch.setattr(live_index, "FIRST_S", 0.1)
    monkeypatch.setattr(live_index, "OPEN_S", 0.1)
    handles = wires(two[0], 2)
    opener = RemoteOpener(handles, loop)  # type: ignore[arg-type]
    handles[1].failures = [lost()]
    index = opener(two[0].release)
    assert "partition 1: no replica is there" in caplog.text
    assert index.top_k(two[0].release.model.user_vectors[:1], 3).counts.tolist() == [3]
    handles[1].failures = [lost()]
    with pytest.raises(ReleaseError, match="partition 1: no replica is there"):
        opener(two[1].release)


def test_settings_choose_where_the_catalogue_is_ranked(two) -> None:
    """Protects the two settings: one index, shares in the process, or the partitions that were handed over."""
    release = two[0].release
    assert isinstance(index_opener(LiveSettings())(release), ItemIndex)
    shares = index_opener(LiveSettings(partitions=3), threads=2)(release)
    assert isinstance(shares, PartitionedIndex)
    assert len(shares.bounds) == 4

    async def chosen() -> Any:
        return index_opener(LiveSettings(partitions=2, placement="actors"), wires(two[0], 2))  # type: ignore[arg-type]

    assert isinstance(asyncio.run(chosen()), RemoteOpener)


def test_a_share_keeps_the_releases_asked_for_last(two, tmp_path) -> None:
    """Protects memory, and the release before the present one while gateways still ask for it."""
    folder = made.copied(two[0], tmp_path)
    third = made.published_release(tmp_path / "third", store=folder.store.url, seed=2, score=SCORE)
    fourth = made.published_release(tmp_path / "fourth", store=folder.store.url, seed=3, score=SCORE)
    shares = Shares(folder.store, place=0, partitions=2, threads=1)
    ids = [two[0].release.id, two[1].release.id, third.release.id, fourth.release.id]
    for release_id in (ids[0], ids[2], ids[0], ids[3]):
        assert shares.open(release_id) is shares.find(release_id)
    assert [shares.find(release_id) is not None for release_id in ids] == [True, False, False, True]
    assert KEPT == 2
    with pytest.raises(ReleaseError):
        shares.open("no-such-release")
