"""A night whose store is on S3: a sweep that is killed and goes on, then a release equal to that of a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from made import make_events
from nightrank.cli import main
from nightrank.cluster.check import check
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.config.cluster import load_cluster
from nightrank.release import open_store
from nightrank.release.publish import verify
from remote import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

REPO = Path(__file__).resolve().parent.parent
COLUMNS = {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"}


def job_file(folder: Path, *, store: str) -> Path:
    """Three trials of one family in turn, so that two sweeps over the same events propose the same."""
    pq.write_table(make_events(n_users=150, n_items=60), folder / "events.parquet")
    actors = yaml.safe_load((REPO / "cluster.yaml").read_text())
    actors["metadata"]["actors"]["tune_trial"] |= {"max_count": 1}
    (folder / "one.yaml").write_text(yaml.safe_dump(actors))
    job = {
        "store": store,
        "events": {"path": str(folder / "events.parquet"), "columns": COLUMNS},
        "gate": {"min_change": -1.0},
        "sweep": {"trials": 3, "models": {"svd": {"factors": [2, 4, 8]}}},
        "score": {"k": 10, "buckets": 4, "similar_items_k": 5},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def nightly(config: Path, *settings: str) -> list[str]:
    options = [part for one in settings for part in ("--set", one)]
    return ["nightly", "--config", str(config), "--cluster", str(config.parent / "one.yaml"), *options]


def trials(bucket: Bucket, url: str) -> list[dict[str, Any]]:
    return [json.loads(data) for key, data in bucket.keys(url).items() if "/sweep/trials/" in key]


def test_a_night_on_s3_killed_in_the_sweep_ends_as_one_in_a_folder(
    cluster: LocalCluster, bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sweep goes on from the trials in the bucket, on workers that know it by their environment alone."""
    url = bucket.url()
    config = job_file(tmp_path, store=url)
    code = "from nightrank.cli import main; main()"
    with (tmp_path / "driver.log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", code, *nightly(config)],
            env={**os.environ, **cluster.env},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    deadline = time.monotonic() + 120
    while not any(one["state"] == "done" and one["family"] == "svd" for one in trials(bucket, url)):
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = {one["trial"]: one for one in trials(bucket, url) if one["state"] == "done"}
    capsys.readouterr()
    with applied_env(cluster):
        for store in (url, str(tmp_path / "store")):
            with pytest.raises(SystemExit) as ended:
                main(nightly(config, f"store={store}"))
            assert ended.value.code == 0, capsys.readouterr().err
        assert check(load_cluster(REPO / "cluster.yaml"), open_store(url))[1].startswith("ok")
    remote, local = (
        json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")
    )
    again = {one["trial"]: one for one in trials(bucket, url)}
    assert {trial: again[trial] for trial in done} == done  # what had ended was not measured again
    files = [
        verify(open_store(store), found["release"]).files
        for store, found in ((url, remote), (str(tmp_path / "store"), local))
    ]
    assert files[0] == files[1]
    names = {key.split("/")[2] for key in bucket.keys(url) if key.startswith("runs/") and key.count("/") > 1}
    assert names == {
        "run.json",
        "lease",
        "sweep",
        "leaderboard.parquet",
        "plots",
        "gate.json",
        "model",
        "buckets",
        "stages",
    }
