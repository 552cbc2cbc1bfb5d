"""The sweep on Ray: every trial accounted for, whatever is killed, on one node or three; the gate and --force."""

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

from kills import workers
from made import make_events
from nightrank.batch.run import winner_key
from nightrank.batch.trials import DIED, DONE, ENDED, FAILED, RUNNING
from nightrank.cli.app import main
from nightrank.cluster.local import LocalCluster, applied_env, local_cluster
from nightrank.config.job import load_job
from raylets import more_nodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

COLUMNS = {"user": "user_id", "item": "item_id", "weight": "weight", "time": "timestamp"}
QUICK = {"als": {"factors": [4, 8], "epochs": [4]}, "svd": {"factors": [2, 4]}, "bpr": {"epochs": [5]}}
SLOW = {"als": {"factors": [256], "epochs": [300], "reg": {"low": 0.01, "high": 1.0}}}


def job_file(folder: Path, **settings: Any) -> Path:
    """A job over made events; its store beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(make_events(n_users=150, n_items=60), folder / "events.parquet")
    job = {
        "store": str(folder / "store"),
        "events": {"path": str(folder / "events.parquet"), "columns": COLUMNS},
        "gate": {"min_change": -0.01},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job | settings))
    return folder / "job.yaml"


def night(cluster: LocalCluster, stage: str, config: Path, *arguments: str, code: int = 0) -> None:
    """Run a command in this process; it must end with that exit code."""
    with applied_env(cluster), pytest.raises(SystemExit) as ended:
        main([stage, "--config", str(config), *arguments])
    assert ended.value.code == code


def run_folder(config: Path) -> Path:
    """The folder of the store's latest run."""
    runs = config.parent / "store" / "runs"
    return runs / (runs / "LATEST").read_text().strip()


def records(config: Path) -> dict[str, dict[str, Any]]:
    """Every trial's record, by file name."""
    files = sorted((run_folder(config) / "sweep" / "trials").glob("[!.]*.json"))
    return {file.name: json.loads(file.read_text()) for file in files}


def ended(config: Path) -> dict[str, dict[str, Any]]:
    """The records of the search that have ended."""
    return {
        name: one
        for name, one in records(config).items()
        if one["state"] in ENDED and one["family"] != "popularity"
    }


def started(cluster: LocalCluster, config: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The sweep in a driver of its own; what it says goes to a file beside the job."""
    code = "from nightrank.cli import main; main()"
    with (config.parent / "driver.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, "sweep", "--config", str(config), *arguments],
            env={**os.environ, **cluster.env},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def said(config: Path) -> str:
    return (config.parent / "driver.log").read_text()


def wait_for(condition: Any, *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_sweep_leaves_its_trials_and_what_was_chosen(cluster: LocalCluster, tmp_path: Path) -> None:
    """Protects the stage: as many distinct recipes as asked for, a failing one recorded with its reason, one chosen,
    measured on test beside popularity; the next night begins with it."""
    hopeless = QUICK["als"] | {"factors": [4], "reg": [1e308]}
    config = job_file(tmp_path, sweep={"trials": 6, "models": QUICK | {"als": hopeless}})
    night(cluster, "sweep", config)
    found = ended(config)
    assert len(found) == 6
    assert {one["state"] for one in records(config).values()} <= set(ENDED)
    failures = [one for one in found.values() if one["family"] == "als"]
    assert failures  # the seed draws some
    assert all(one["state"] == FAILED and "diverged" in one["reason"] for one in failures)
    outcome = json.loads((run_folder(config) / "stages" / "sweep.json").read_text())
    winner = outcome["winner"]
    assert winner["state"] == DONE
    assert outcome["trials"] == 6
    assert outcome["test"]["n_users"] > 100
    change = outcome["test"]["change"]
    assert change["value"] == pytest.approx(outcome["test"]["value"] - outcome["test"]["baseline"]["value"])
    assert change["low"] <= change["value"] <= change["high"]
    board = pq.read_table(run_folder(config) / "leaderboard.parquet").to_pylist()
    assert len(board) == 7
    assert [row["trial"] for row in board if row["chosen"]] == [winner["trial"]]
    assert sorted(file.suffix for file in (run_folder(config) / "plots").iterdir()) == [".png"] * 3
    recipe = json.loads((tmp_path / "store" / winner_key(load_job(config))).read_text())
    assert (recipe["family"], recipe["params"]) == (winner["family"], winner["params"])
    night(cluster, "sweep", config, "--set", "seed=5", "--set", "sweep.trials=2")
    again = records(config)[f"{winner['trial']}.json"]
    assert (again["origin"], again["state"]) == ("last winner", DONE)
    assert len(ended(config)) == 2


@pytest.mark.soak
def test_a_killed_driver_loses_no_trial(cluster: LocalCluster, tmp_path: Path) -> None:
    """Protects finished work: kill -9 of the driver in the middle, then the same command: what had ended stays as it
    was, what was cut short is measured, and the number is what was asked for."""
    config = job_file(tmp_path, sweep={"trials": 5, "models": SLOW})
    driver = started(cluster, config)
    wait_for(lambda: (tmp_path / "store/runs/LATEST").exists() and len(ended(config)) >= 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not list(workers(cluster, "ImplicitFunc", "_trial")))
    trials = run_folder(config) / "sweep/trials"
    for name, orphan in (("a", ""), ("b", next(iter(trials.glob("[!.]*.json"))).read_text())):
        (trials / f".{name}.json.x1y2z3.json").write_text(
            orphan
        )  # what a kill in the middle of a write leaves
    before = ended(config)
    cut_short = [name for name, one in records(config).items() if one["state"] == RUNNING]
    assert 2 <= len(before) < 5
    stamps = {name: (run_folder(config) / "sweep/trials" / name).stat().st_mtime_ns for name in before}
    night(cluster, "sweep", config)
    after = ended(config)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    assert stamps == {
        name: (run_folder(config) / "sweep/trials" / name).stat().st_mtime_ns for name in before
    }
    assert set(cut_short) <= after.keys()


@pytest.mark.soak
def test_a_killed_trial_is_measured_again(cluster: LocalCluster, tmp_path: Path) -> None:
    """Protects a sweep from the memory monitor: kill -9 of a trial's process, and it is started again."""
    config = job_file(tmp_path, sweep={"trials": 3, "models": SLOW})
    driver = started(cluster, config)
    victims: list[Any] = []
    wait_for(
        lambda: (
            victims.extend(workers(cluster, "ImplicitFunc"))
            or (victims and any(one["history"] for one in records(config).values() if one["family"] == "als"))
        )
    )
    victims[-1][1].kill()
    assert driver.wait(timeout=150) == 0, said(config)
    found = ended(config)
    assert len(found) == 3
    assert any(one["state"] == DONE for one in found.values())


@pytest.mark.soak
def test_a_recipe_whose_process_dies_does_not_end_the_sweep(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects a night from last time's winner, which is measured as popularity is: where its process dies each time,
    that is recorded, and the search goes on."""

    def dies(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    config = job_file(tmp_path, sweep={"trials": 2, "models": {"svd": {"factors": [2, 3]}}})
    monkeypatch.setattr("nightrank.batch.sweep._alone", dies)
    with pytest.raises(SystemExit) as ended_with, applied_env(cluster):
        main(["sweep", "--config", str(config)])
    assert ended_with.value.code == 0
    popular = [one for one in records(config).values() if one["family"] == "popularity"]
    assert [(one["state"], one["reason"]) for one in popular] == [(FAILED, DIED)]
    assert {one["state"] for one in ended(config).values()} == {DONE}


@pytest.mark.soak
def test_a_lost_cluster_loses_no_trial(tmp_path: Path) -> None:
    """Protects a night from a machine that is switched off: driver and cluster go in the middle; the same command on
    a new cluster keeps what had ended and completes the rest."""
    config = job_file(tmp_path, sweep={"trials": 5, "models": SLOW})
    with local_cluster(home=tmp_path / "home", num_cpus=2) as cluster:
        driver = started(cluster, config)
        wait_for(lambda: (tmp_path / "store/runs/LATEST").exists() and len(ended(config)) >= 2)
    driver.kill()
    driver.wait()
    before = ended(config)
    assert 2 <= len(before) < 5
    with local_cluster(home=tmp_path / "home", num_cpus=2) as cluster:
        night(cluster, "sweep", config)
    after = ended(config)
    assert len(after) == 5
    assert {name: after[name] for name in before if before[name]["reason"] is None} == {
        name: one for name, one in before.items() if one["reason"] is None
    }


@pytest.mark.soak
def test_a_lost_node_loses_no_trial(tmp_path: Path) -> None:
    """Protects a sweep on several machines: one of three nodes is lost with all that runs on it, and every trial has
    its end."""
    config = job_file(tmp_path, sweep={"trials": 6, "models": SLOW})
    actors = yaml.safe_load((Path(__file__).parent.parent / "cluster.yaml").read_text())
    actors["metadata"]["actors"]["tune_trial"] |= {"num_cpus": 1.0, "max_count": 3}
    (tmp_path / "three.yaml").write_text(yaml.safe_dump(actors))
    with (
        local_cluster(home=tmp_path / "home", num_cpus=1) as cluster,
        more_nodes(cluster, 2, num_cpus=1, logs=tmp_path) as raylets,
    ):
        driver = started(cluster, config, "--cluster", str(tmp_path / "three.yaml"))
        wait_for(lambda: sum("ImplicitFunc" in title for title, _ in workers(cluster, "ImplicitFunc")) >= 3)
        wait_for(lambda: len(ended(config)) >= 1)
        raylets[0].kill()
        assert driver.wait(timeout=180) == 0, said(config)
    found = ended(config)
    assert len(found) == 6
    assert {one["state"] for one in records(config).values()} <= set(ENDED)
    assert any(one["state"] == DONE for one in found.values())


def test_force_goes_on_where_the_gate_refuses(cluster: LocalCluster, tmp_path: Path) -> None:
    """Protects the record: refused with exit code 3 and nothing scored; with --force published, and said so."""
    train = {"model": "als", "params": {"factors": 4, "epochs": 2}}
    config = job_file(tmp_path, train=train, gate={"min_change": 0.9}, score={"buckets": 2})
    night(cluster, "nightly", config, code=3)
    gate = json.loads((run_folder(config) / "gate.json").read_text())
    assert (gate["passed"], gate["forced"]) == (False, False)
    assert gate["change_low"] <= gate["change"] <= gate["change_high"]
    assert not (tmp_path / "store" / "releases").exists()
    night(cluster, "nightly", config, "--force")
    (manifest,) = (tmp_path / "store" / "releases").glob("*/manifest.json")
    quality = json.loads(manifest.read_text())["gates"]["quality"]
    assert (quality["passed"], quality["forced"]) == (False, True)
