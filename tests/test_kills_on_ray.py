"""Two nights that are really killed, and two that meet: every user exactly once, nothing finished is redone."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from kills import workers
from nightrank.cluster.local import LocalCluster
from nights import (
    BUCKETS,
    Night,
    assert_whole,
    ended,
    recorded,
    records,
    rewritten,
    trained_night,
    undisturbed_content,
    until_done,
    wait_for_records,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

N_USERS, N_ITEMS = 20_000, 4_000


@pytest.fixture(scope="module")
def night(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night whose score and publish stages are left; tests work on copies of it."""
    return trained_night(cluster, tmp_path_factory.mktemp("kills"), n_users=N_USERS, n_items=N_ITEMS)


@pytest.fixture(scope="module")
def undisturbed(night: Night) -> dict[str, str]:
    """The checksums of a release that was made without Ray and without harm."""
    return undisturbed_content(night, night.config.parent / "undisturbed")


def busy_scorer(cluster: LocalCluster) -> psutil.Process | None:
    """A scorer that is stopped with a bucket in hand: Ray puts the method that runs into the title."""
    for title, process in workers(cluster, "ScoreUnits"):
        if not title.rstrip().endswith(".submit"):
            continue
        process.suspend()
        if " ".join(process.cmdline()).rstrip().endswith(".submit"):
            return process
        process.resume()
    return None


def test_a_scorer_killed_in_the_middle_of_a_bucket_changes_nothing(
    night: Night, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 of a scorer that has a bucket in hand: the same command ends well, each bucket is written once and
    the bytes are those of an undisturbed night; so they are after the command is given again."""
    store = night.copy(tmp_path / "store")
    driver = night.start(store)
    assert wait_for_records(driver, store, 1), ended(driver).log
    victim = None
    while victim is None:
        assert driver.poll() is None, ended(driver).log
        victim = busy_scorer(night.cluster)
    assert len(records(store)) <= BUCKETS
    before = recorded(store)
    victim.kill()
    end = ended(driver)
    assert end.code == 0, end.log
    assert rewritten(before) == []
    assert_whole(store, undisturbed, n_users=N_USERS, told=[end.log])
    before = recorded(store)
    until_done(night, store)
    assert rewritten(before) == []


def test_a_killed_driver_blocks_nobody_and_loses_nothing(
    night: Night, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """While a driver scores, the same command ends with exit code 1 and says why; after kill -9 of the driver it
    goes on where that stopped: finished buckets keep inode and time, the bytes are those of an undisturbed night."""
    store = night.copy(tmp_path / "store")
    driver = night.start(store)
    assert wait_for_records(driver, store, 2), ended(driver).log
    driver.send_signal(signal.SIGSTOP)
    second = night.run(store)
    assert second.code == 1, second.log
    assert "is held by another" in second.log
    assert "Traceback" not in second.log
    before = recorded(store)
    assert 2 <= len(records(store)) <= BUCKETS, "the kill would not be in the middle"
    driver.kill()
    assert ended(driver).code == -signal.SIGKILL
    ends = until_done(night, store)
    assert len(ends) == 1, "what the killed driver held was in the way"
    assert "parts are there already" in ends[0].log
    assert rewritten(before) == []
    assert_whole(store, undisturbed, n_users=N_USERS, told=[ends[0].log])
