"""`nightrank evaluate` for families that learn from features: tables by --config, classes by --label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from made import make_events, make_items, make_users
from test_evaluate import run, write

FM = ["--model", "fm", "--param", "factors=8", "--param", "epochs=4"]


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """train and test of the made events; all of the last item's are in test, so train does not know it."""
    events = make_events()
    cold = events["item_id"].to_pylist()[0]
    is_test = [place % 5 == 0 or item == cold for place, item in enumerate(events["item_id"].to_pylist())]
    mask = pa.array(is_test)
    train = write(tmp_path, "train", events.filter(pa.compute.invert(mask)).to_pydict())
    test = write(tmp_path, "test", events.filter(mask).to_pydict())
    write(tmp_path, "items", make_items().to_pydict())
    write(tmp_path, "users", make_users().to_pydict())
    return [tmp_path, cold, ["--train", train, "--test", test]]


def job_file(folder: Path, **more: Any) -> Path:
    job = {
        "events": {
            "path": str(folder / "train.parquet"),
            "columns": {"weight": "weight", "time": "timestamp"},
        },
        "items": {"path": str(folder / "items.parquet"), "features": ["genres"]},
        "users": {"path": str(folder / "users.parquet"), "features": ["age", "gender"]},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job | more))
    return folder / "job.yaml"


def test_with_a_job_file_a_cold_item_can_be_found(
    files: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The item table makes a held-out item one of the catalogue: with it, hits are possible."""
    folder, cold, ask = files
    events = make_events().to_pylist()
    owner = next(event["user_id"] for event in events if event["item_id"] == cold)
    write(folder, "test", {"user_id": [owner], "item_id": [cold], "weight": [5.0], "timestamp": [1]})
    asked = [*ask, "--model", "hybrid", "--metrics", "recall@100", "--json"]
    bare, _ = run(capsys, *asked)
    with_tables, _ = run(capsys, *asked, "--config", job_file(folder))
    found = [json.loads(out)["metrics"]["recall@100"]["value"] for out in (bare, with_tables)]
    assert found == [0.0, 1.0]


def test_candidates_may_name_items_of_the_table(
    files: list[Any], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A cold item among the candidates is ranked, not left out as unknown."""
    folder, cold, ask = files
    users = sorted(set(make_events()["user_id"].to_pylist()))
    columns = {"user_id": users * 2, "item_id": [cold] * len(users) + [7 * 3 + 3] * len(users)}
    ask = [*ask, "--candidates", write(folder, "candidates", columns), "--model", "hybrid"]
    run(capsys, *ask, "--metrics", "hr@1", "--config", job_file(folder))
    assert "candidates" not in caplog.text
    run(capsys, *ask, "--metrics", "hr@1")
    assert f"{len(users)} rows of items that train does not know are left out" in caplog.text


def test_a_class_is_learned_by_the_rule_of_label(
    files: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """--label is the class of the fit and of the metrics, the job's label where it is left out, and needed."""
    folder, _, ask = files
    ask = [*ask, *FM, "--param", "task=label", "--json"]
    metrics = ["--metrics", "auc,logloss,accuracy"]
    by_option, _ = run(capsys, *ask, *metrics, "--label", "weight>=4")
    by_job, _ = run(capsys, *ask, *metrics, "--config", job_file(folder, label="weight>=4"))
    for out in (by_option, by_job):
        assert 0 < json.loads(out)["metrics"]["logloss"]["value"] < 2
    run(
        capsys, *ask, "--metrics", "ndcg@5", "--label", "weight>=4"
    )  # no metric looks at labels, the fit does
    _, err = run(capsys, *ask, "--metrics", "ndcg@5", code=2)
    assert "fm with task label learns a class" in err
    assert "--label" in err


def test_a_rating_is_cut_to_what_training_saw(files: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """rmse is of what the model would answer: with tables and without, on the scale of the ratings."""
    folder, _, ask = files
    for more in ([], ["--config", job_file(folder)]):
        out, _ = run(capsys, *ask, *FM, "--metrics", "rmse,mae", "--json", *more)
        values = [one["value"] for one in json.loads(out)["metrics"].values()]
        assert all(0 < value < 4 for value in values)
