"""A whole night by rmse on Ray: fm and svd searched over one truth, judged against mean, scored and in service."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import made
from nightrank.cli.app import main
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.release import open_release, open_store
from nightrank.release.publish import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def test_a_night_by_rmse(cluster: LocalCluster, tmp_path: Path) -> None:
    """Protects losses through Tune, ASHA, the choice and the gate: the smallest rmse leads, shown as it is."""
    job = made.make_job(tmp_path, users=made.make_users())
    models: dict[str, Any] = {
        "fm": {"factors": [4, 8], "epochs": [4]},
        "svd": {"factors": [1, 2, 20]},
    }
    settings: dict[str, Any] = job.model_dump(mode="json", exclude={"train", "sweep", "objective"}) | {
        "objective": {"metric": "rmse"},
        "sweep": {"trials": 4, "models": models},
        "gate": {"min_change": -0.5},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(settings))
    with applied_env(cluster), pytest.raises(SystemExit) as ended:
        main(["nightly", "--config", str(tmp_path / "job.yaml")])
    assert ended.value.code == 0
    (run,) = [path for path in (tmp_path / "store" / "runs").iterdir() if path.is_dir()]
    board = pq.read_table(run / "leaderboard.parquet").to_pylist()
    assert {row["metric"] for row in board} == {"rmse"}
    assert {row["family"] for row in board} >= {"mean", "svd"}
    values = [row["value"] for row in board if row["state"] == "done"]
    assert values == sorted(values)
    assert min(values) > 0.5
    (chosen,) = [row for row in board if row["chosen"]]
    assert chosen["family"] != "mean"
    best = min(row["value"] for row in board if row["family"] != "mean" and row["state"] == "done")
    assert chosen["change"] == pytest.approx(best - chosen["value"], abs=1e-6)
    outcome = json.loads((run / "stages" / "sweep.json").read_text())["test"]
    assert outcome["baseline"]["family"] == "mean"
    gained = outcome["baseline"]["value"] - outcome["value"]
    assert outcome["change"]["value"] == pytest.approx(gained)
    gate = json.loads((run / "gate.json").read_text())
    assert (gate["metric"], gate["baseline_recipe"]["family"]) == ("rmse", "mean")
    assert math.isclose(gate["change"], gate["baseline"] - gate["candidate"])
    store = open_store(str(tmp_path / "store"))
    release = open_release(store)
    verify(store, release.id)
    assert release.manifest.metrics == {"rmse": gate["candidate"]}
    assert release.model.card.link == "identity"
