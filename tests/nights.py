"""Nights to be disturbed: a store that is trained, drivers as processes of their own, and what a night left.

A night is trained once; each test takes a copy of that store, in which score and publish are left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import made
from nightrank.batch.nightly import open_run
from nightrank.batch.publish import publish
from nightrank.cluster.local import LocalCluster
from nightrank.config.job import load_job
from nightrank.release import open_release, open_store
from nightrank.release.publish import verify

K, BUCKETS = 50, 12
STAMP = tuple[int, int]
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    log: str


@dataclass(frozen=True)
class Night:
    """A job file whose night takes seconds, and the store in which it is trained."""

    cluster: LocalCluster
    config: Path
    trained: Path
    actors: Path  # two scorers, which the smallest machine has room for
    many_actors: Path  # three of a CPU each: one of them on a node beside the head

    def copy(self, store: Path) -> Path:
        """The trained store once more, into `store` (which may be there, empty)."""
        shutil.copytree(self.trained, store, dirs_exist_ok=True)
        return store

    def start(self, store: Path, *, actors: Path | None = None) -> subprocess.Popen[str]:
        """A driver of its own, that ends or is ended."""
        where = ["--cluster", str(self.actors if actors is None else actors), "--set", f"store={store}"]
        words = ["nightly", "--config", str(self.config), *where]
        return subprocess.Popen(
            [sys.executable, "-c", "from nightrank.cli import main; main()", *words],
            env={**os.environ, **self.cluster.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, store: Path) -> Ended:
        """A driver from its start to its end."""
        return ended(self.start(store))


def trained_night(cluster: LocalCluster, folder: Path, *, n_users: int, n_items: int) -> Night:
    """Events of a made-up shop, and a store in `folder` where the night is trained, in this process."""
    rng = np.random.default_rng(0)
    popularity, n_events = 1.0 / np.arange(1, n_items + 1) ** 0.8, 12 * n_users
    events = {
        "user_id": np.concatenate([np.arange(n_users), rng.integers(n_users, size=n_events - n_users)]),
        "item_id": rng.choice(n_items, size=n_events, p=popularity / popularity.sum()),
        "timestamp": rng.integers(1_600_000_000, 1_700_000_000, size=n_events),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    job = {
        "events": {"path": str(folder / "events.parquet"), "columns": {"time": "timestamp"}},
        "train": {"model": "als", "params": {"factors": 32, "epochs": 2}},
        "gate": {"min_change": -1.0, "min_coverage": 0.0},
        "score": {"k": K, "buckets": BUCKETS},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    night = Night(
        cluster,
        config=folder / "job.yaml",
        trained=folder / "trained",
        actors=scorers(folder / "two.yaml", num_cpus=0.7, count=2),
        many_actors=scorers(folder / "three.yaml", num_cpus=1, count=3),
    )
    made.trained_run(load_job(night.config, overrides=[f"store={night.trained}"]), threads=2)
    return night


def undisturbed_content(night: Night, store: Path) -> dict[str, str]:
    """The checksums of the night's release, made in this process: nothing of Ray is in them."""
    run = open_run(load_job(night.config, overrides=[f"store={night.copy(store)}"]))
    publish(made.score_in_process(run, threads=2))
    return content(store)


def scorers(path: Path, *, num_cpus: float, count: int) -> Path:
    """The shipped cluster.yaml with other scorers."""
    actors = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    actors["metadata"]["actors"]["scorer"] |= {"num_cpus": num_cpus, "min_count": count, "max_count": count}
    path.write_text(yaml.safe_dump(actors))
    return path


def ended(driver: subprocess.Popen[str]) -> Ended:
    """Waits for a driver and closes its pipe."""
    with driver:
        _, log = driver.communicate(timeout=240)
    return Ended(driver.returncode, log)


def until_done(night: Night, store: Path) -> list[Ended]:
    """The same command again until it ends well: three times at most."""
    ends: list[Ended] = []
    while not ends or (ends[-1].code != 0 and len(ends) < 3):
        ends.append(night.run(store))
    assert ends[-1].code == 0, [end.log for end in ends]
    return ends


def records(store: Path) -> list[Path]:
    """The records of buckets and parts that are finished."""
    return sorted(store.glob("runs/*/buckets/*.json"))


def recorded(store: Path) -> dict[Path, STAMP]:
    """(inode, mtime in ns) of every file whose bucket or part is recorded."""
    (releases,) = {path.parent for path in store.glob("releases/*/recommendations")} or {store}
    names = [name for record in records(store) for name in json.loads(record.read_bytes())["files"]]
    return {releases / name: stamp(releases / name) for name in names}


def stamp(path: Path) -> STAMP:
    """What changes whenever a file is written anew."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def rewritten(before: dict[Path, STAMP]) -> list[str]:
    """Those of the files that are not as they were."""
    return [path.name for path, then in before.items() if stamp(path) != then]


def wait_for_records(driver: subprocess.Popen[str], store: Path, n: int) -> bool:
    """Until at least n records are there; False where the driver ended first."""
    while len(records(store)) < n:
        if driver.poll() is not None:
            return False
        time.sleep(0.005)
    return driver.poll() is None


def content(store: Path) -> dict[str, str]:
    """SHA-256 of every file of the release in service but its manifest, which has to verify."""
    opened = open_store(str(store))
    release = open_release(opened)
    verify(opened, release.id)
    folder = store / "releases" / release.id
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "manifest.json"
    }


def assert_whole(store: Path, undisturbed: dict[str, str], *, n_users: int, told: Sequence[object]) -> None:
    """The bytes of an undisturbed night, and every user exactly once as DuckDB reads the Parquet."""
    assert content(store) == undisturbed, told
    table = store / "releases" / open_release(open_store(str(store))).id / "recommendations" / "*.parquet"
    users, rows, distinct = duckdb.sql(
        f"SELECT count(DISTINCT user_id), count(*), count(DISTINCT (user_id, rank)) FROM '{table}'"
    ).fetchall()[0]
    assert (users, rows, distinct) == (n_users, K * n_users, K * n_users), told
