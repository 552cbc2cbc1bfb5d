"""Fifty disturbed nights, run by `make soak`: whatever dies and whenever, every user is written exactly once.

Each round copies a trained store, disturbs the night at a random moment in one way, and runs the same command
until it ends well. A seed says what a round does; its name in the report says it too.
"""

from __future__ import annotations

import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fulldisk import SmallDisk, bytes_of, small_disk
from kills import workers
from nightrank.cluster.local import LocalCluster
from nights import (
    BUCKETS,
    STAMP,
    Night,
    assert_whole,
    ended,
    recorded,
    rewritten,
    trained_night,
    undisturbed_content,
    until_done,
    wait_for_records,
)
from raylets import Raylet, more_nodes

pytestmark = [pytest.mark.soak, pytest.mark.ray]

N_USERS, N_ITEMS, ROUNDS = 20_000, 4_000, 50
HARMS = ("scorer", "driver", "raylet", "full-scoring", "full-publishing")


def harm_of(seed: int) -> str:
    """What a round does: drawn, but none is left out of fifty."""
    return random.Random(seed // len(HARMS)).sample(HARMS, len(HARMS))[seed % len(HARMS)]


@dataclass
class Round:
    """One disturbed night."""

    night: Night
    store: Path
    rng: random.Random
    told: list[object] = field(default_factory=list)
    before: dict[Path, STAMP] = field(default_factory=dict)

    def until_a_moment(self, driver: subprocess.Popen[str]) -> None:
        """Wait for a number of finished parts, drawn, and a little more; what is recorded then is noted."""
        wanted = self.rng.randrange(BUCKETS - 1)
        assert wait_for_records(driver, self.store, wanted), ended(driver).log
        time.sleep(self.rng.uniform(0.0, 6.0 if wanted == 0 else 0.1))
        self.told.append(f"{wanted} parts")

    def note(self) -> None:
        """What is recorded now must not be written again."""
        self.before = recorded(self.store)


@pytest.fixture(scope="module")
def night(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Scoring takes seconds, after some in which Ray starts the scorers."""
    return trained_night(cluster, tmp_path_factory.mktemp("soak"), n_users=N_USERS, n_items=N_ITEMS)


@pytest.fixture(scope="module")
def undisturbed(night: Night) -> dict[str, str]:
    """The checksums of a night that nobody disturbed."""
    return undisturbed_content(night, night.config.parent / "undisturbed")


@pytest.mark.parametrize("seed", range(ROUNDS), ids=lambda seed: f"{seed}-{harm_of(seed)}")
def test_a_disturbed_night_ends_as_an_undisturbed_one(
    night: Night, undisturbed: dict[str, str], tmp_path: Path, seed: int
) -> None:
    """The same command again: every user exactly once, the same bytes, and what was recorded not rewritten."""
    harm, rng = harm_of(seed), random.Random(seed)
    one = Round(night, tmp_path / "store", rng)
    for harmed in HARMED[harm](one):
        one.told.append(harmed)
        one.told += [end.log for end in until_done(night, one.store)]
        assert rewritten(one.before) == [], one.told
        assert_whole(one.store, undisturbed, n_users=N_USERS, told=one.told)


def with_a_killed_scorer(one: Round) -> Iterator[str]:
    """SIGKILL of one scorer while it has a bucket in hand, or before its first."""
    one.night.copy(one.store)
    driver = one.night.start(one.store)
    one.until_a_moment(driver)
    scorers: list[tuple[str, object]] = []
    while not scorers:
        assert driver.poll() is None, ended(driver).log
        scorers = list(workers(one.night.cluster, "ScoreUnits"))
    one.note()
    title, victim = one.rng.choice(scorers)
    victim.kill()
    end = ended(driver)
    yield f"{title.strip()}: driver {end.code}"


def with_a_killed_driver(one: Round) -> Iterator[str]:
    """SIGKILL of the driver; its scorers live on for a moment."""
    one.night.copy(one.store)
    driver = one.night.start(one.store)
    one.until_a_moment(driver)
    one.note()
    driver.kill()
    yield f"driver {ended(driver).code}"


def with_a_killed_raylet(one: Round) -> Iterator[str]:
    """SIGKILL of one of three nodes with all of its workers."""
    one.night.copy(one.store)
    with more_nodes(one.night.cluster, 2, num_cpus=1, logs=one.store.parent) as raylets:
        driver = one.night.start(one.store, actors=one.night.many_actors)
        one.until_a_moment(driver)
        busy: list[Raylet] = []
        while not busy:
            assert driver.poll() is None, ended(driver).log
            scorers = {process.pid for _, process in workers(one.night.cluster, "ScoreUnits")}
            busy = [raylet for raylet in raylets if scorers & raylet.pids()]
        one.note()
        one.rng.choice(busy).kill()
        end = ended(driver)
        yield f"raylet with a scorer: driver {end.code}"


def with_a_full_disk(stage: str) -> Callable[[Round], Iterator[str]]:
    """A disk with room for a part, drawn, of what a stage writes; more room for the second command."""

    def harm(one: Round) -> Iterator[str]:
        parts = sizes(one.night)
        first, last = parts[stage]
        room = first + int(one.rng.uniform(0.0, 0.95) * (last - first))
        with small_disk(one.store, n_bytes=room) as disk:
            one.night.copy(one.store)
            driver = one.night.start(one.store)
            end = ended(driver)
            assert_told(end.code, end.log)
            one.note()
            grow(disk, parts)
            yield f"full at {room}"

    return harm


def assert_told(code: int, log: str) -> None:
    """A full disk ends the command with exit code 1 and a line that names a file and the cure, no traceback."""
    assert code == 1, log
    assert re.search(r"/store/\S+ cannot be written: (No space left on device|the disk took no more)", log), (
        log
    )
    assert "run the same command again" in log, log
    assert "Traceback" not in log, log


def sizes(night: Night) -> dict[str, tuple[int, int]]:
    """Bytes of the store before and after each stage, from the undisturbed one."""
    done = night.config.parent / "undisturbed"
    (folder,) = (done / "releases").iterdir()
    last = [*folder.glob("*"), *folder.glob("arrays/*.*")]  # of the model's arrays it makes second names
    last = [path for path in last if path.is_file() and path.stat().st_nlink == 1]
    published = bytes_of({path.stat().st_ino: path for path in done.rglob("*")}.values())
    return {
        "score": (bytes_of(night.trained.rglob("*")), published - bytes_of(last)),
        "publish": (published - bytes_of(last), published),
    }


def grow(disk: SmallDisk, parts: dict[str, tuple[int, int]]) -> None:
    """Room for everything."""
    disk.resize(2 * parts["publish"][1])


HARMED: dict[str, Callable[[Round], Iterator[str]]] = {
    "scorer": with_a_killed_scorer,
    "driver": with_a_killed_driver,
    "raylet": with_a_killed_raylet,
    "full-scoring": with_a_full_disk("score"),
    "full-publishing": with_a_full_disk("publish"),
}
