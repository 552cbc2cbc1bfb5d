"""Long kill tests, run by `make soak`: whatever dies and whenever, every user is written exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kills import workers
from nightrank.cluster.local import LocalCluster
from nightrank.release import open_release, open_store
from nightrank.release.publish import verify

pytestmark = [pytest.mark.soak, pytest.mark.ray]

N_USERS, N_ITEMS, N_EVENTS, ROUNDS = 20_000, 5_000, 400_000, 6


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job over events that take each stage some seconds, in eight buckets."""
    folder = tmp_path_factory.mktemp("soak")
    rng = np.random.default_rng(0)
    popularity = 1.0 / np.arange(1, N_ITEMS + 1) ** 0.8
    events = {
        "user_id": rng.integers(N_USERS, size=N_EVENTS),
        "item_id": rng.choice(N_ITEMS, size=N_EVENTS, p=popularity / popularity.sum()),
        "timestamp": rng.integers(1_600_000_000, 1_700_000_000, size=N_EVENTS),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    job = {
        "events": {"path": str(folder / "events.parquet"), "columns": {"time": "timestamp"}},
        "train": {"model": "als", "params": {"factors": 64, "epochs": 5}},
        "gate": {"min_change": -1.0, "min_coverage": 0.0},
        "score": {"buckets": 8},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def start(cluster: LocalCluster, config: Path, store: Path) -> subprocess.Popen[bytes]:
    """A nightly driver of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-c", "from nightrank.cli import main; main()"),
            *("nightly", "--config", str(config), "--set", f"store={store}"),
        ],
        env={**os.environ, **cluster.env},
        stdout=subprocess.DEVNULL,
    )


def recommendations(store: Path) -> dict[str, bytes]:
    """The bucket files of the release in service, checked against its manifest."""
    opened = open_store(str(store))
    release = open_release(opened)
    verify(opened, release.id)
    folder = store / "releases" / release.id / "recommendations"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(cluster: LocalCluster, config: Path) -> dict[str, bytes]:
    """The bytes of a night that nobody disturbed."""
    store = config.parent / "undisturbed"
    assert start(cluster, config, store).wait() == 0
    return recommendations(store)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_kills_leave_the_same_bytes(
    cluster: LocalCluster, config: Path, undisturbed: dict[str, bytes], seed: int
) -> None:
    """kill -9 of drivers and workers at random moments, then the same command again: every user exactly once
    and the bytes of an undisturbed run."""
    rng = random.Random(seed)
    store = config.parent / f"round-{seed}"
    kills = []
    for _ in range(3):
        driver = start(cluster, config, store)
        time.sleep(rng.uniform(3.0, 20.0))
        kills.append(kill_something(cluster, driver, rng))
        if driver.poll() is None and kills[-1] != "driver":
            driver.wait()
    assert start(cluster, config, store).wait() == 0, kills
    assert recommendations(store) == undisturbed, kills
    users, rows, repeated = duckdb.sql(
        "SELECT count(DISTINCT user_id), count(*), count(*) - count(DISTINCT (user_id, rank)) "
        f"FROM '{store}/releases/{open_release(open_store(str(store))).id}/recommendations/*.parquet'"
    ).fetchall()[0]
    assert (repeated, rows) == (0, 100 * users), kills


def kill_something(cluster: LocalCluster, driver: subprocess.Popen[bytes], rng: random.Random) -> str:
    """SIGKILL the driver, or a worker process that is running a trial, a fit or a bucket; says which."""
    busy = list(workers(cluster, "MapWorker", "_judge", "_fit_all"))
    if busy and rng.random() < 0.6:
        title, victim = rng.choice(busy)
        victim.kill()
        return title
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return "driver"
