"""jobs/examples/als-shop.yaml: its sweep on Ray, the rest of its night in this process, and the service's answers."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import made
from asked import K, served, user_path
from made import Published
from nightrank.batch.publish import publish
from nightrank.cli.app import main
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.config.job import load_job
from nightrank.release import open_release
from pages import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

JOB = ROOT / "jobs" / "examples" / "als-shop.yaml"


def called(cluster: LocalCluster, *words: str) -> None:
    """A command in this process, which must succeed."""
    with applied_env(cluster), pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def test_als_shop(cluster: LocalCluster, tmp_path: Path) -> None:
    """A shop's log of five types of events: trials by MAP@20, the best in service, popular items for who is new."""
    sizes = ("--users", "300", "--items", "80", "--events", "12000")
    called(cluster, "data", "synth", "retail", *sizes, "--out", str(tmp_path / "shop"))
    places = {"store": "store", "events.path": "shop/events.parquet", "items.path": "shop/items.parquet"}
    overrides = [f"{key}={tmp_path / place}" for key, place in places.items()]
    overrides += ["sweep.trials=2", "sweep.models.als.factors=16"]
    settings = (word for one in overrides for word in ("--set", one))
    called(cluster, "sweep", "--config", str(JOB), *settings)
    run = made.score_in_process(made.trained_run(load_job(JOB, overrides=overrides)))
    publish(run)
    board = pq.read_table(Path(run.store.url) / run.name("leaderboard.parquet")).to_pylist()
    assert {(one["family"], one["metric"]) for one in board} == {("als", "map@20"), ("popularity", "map@20")}
    assert sum(one["family"] == "als" for one in board) == 2
    best, popularity = (
        max(one["value"] for one in board if one["family"] == name) for name in ("als", "popularity")
    )
    assert best > popularity
    assert run.finished("train")["recipe"]["params"]["factors"] == 16
    service = served(Published(store=run.store, run=run, release=open_release(run.store, run.record.release)))
    user = service.published.release.model.user_ids[0]
    known = service.get(user_path(user), k=K).json()
    history = service.get(user_path(user, "history"), k=K).json()
    assert known["source"] == "precomputed"
    assert not {one["item_id"] for one in known["items"]} & {one["item_id"] for one in history["items"]}
    stranger = service.get(user_path("nobody" if isinstance(user, str) else -1), k=3).json()
    assert (stranger["source"], len(stranger["items"])) == ("popular", 3)
    assert all(one["title"] for one in stranger["items"])
