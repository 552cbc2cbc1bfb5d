"""`nightrank evaluate`: files in, metrics out, by hand on a tiny shop; what is refused; progress and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from made import make_events
from nightrank.cli.app import main

# Popularity: a has 3 users, b 2, c and d 1 each (ties by id). ann has a; bob a, b; cat a, b, c; dan d.
TRAIN = {"user_id": list("abbcccd"), "item_id": list("aababcd")}
# ann took b (1st of her list b, c, d); bob d (2nd of c, d); cat x, new to train; eve is new, too.
TEST = {"user_id": list("abce"), "item_id": list("bdxa")}


def write(folder: Path, name: str, columns: dict[str, Any], *, suffix: str = ".parquet") -> Path:
    """A table as a file of that format."""
    path, table = folder / f"{name}{suffix}", pa.table(columns)
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".csv":
        pacsv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """stdout and stderr of the command, which must end with that exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    assert ended.value.code == code
    found = capsys.readouterr()
    return found.out, found.err


def shop(folder: Path, *, suffix: str = ".parquet") -> list[object]:
    """The options for train and test of the tiny shop."""
    train, test = (
        write(folder, name, columns, suffix=suffix) for name, columns in (("train", TRAIN), ("test", TEST))
    )
    return ["--train", train, "--test", test]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_values_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    """Protects the whole way from files of any format to numbers: popularity on the tiny shop, worked out by hand."""
    metrics = "recall@1,hr@2,mrr@2,coverage@2"
    out, _ = run(
        capsys, *shop(tmp_path, suffix=suffix), "--model", "popularity", "--metrics", metrics, "--json"
    )
    report = json.loads(out)
    assert {name: one["value"] for name, one in report["metrics"].items()} == {
        "recall@1": pytest.approx(1 / 3),
        "hr@2": pytest.approx(2 / 3),
        "mrr@2": pytest.approx((1 + 1 / 2) / 3),
        "coverage@2": 3 / 4,  # ann b, c; bob c, d; cat d
    }
    assert report["users"] == {"counted": 3, "unknown": 1, "without_truth": 1}
    assert report["metrics"]["coverage@2"]["low"] is None
    assert 0 <= report["metrics"]["hr@2"]["low"] < 2 / 3 < report["metrics"]["hr@2"]["high"] <= 1


def test_the_json_object_has_the_fields_that_are_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects scripts: one object on stdout, its fields, params complete; the same but for time and memory."""
    ask = [*shop(tmp_path), "--model", "ials", "--param", "factors=4", "--param", "reg=1e-2"]
    ask += ["--metrics", "ndcg@2", "--seed", 3, "--json"]
    first, second = (json.loads(run(capsys, *ask)[0]) for _ in range(2))
    assert list(first) == ["model", "params", "metrics", "users", "seconds", "peak_memory_bytes"]
    assert first["params"] == {
        "factors": 4, "reg": 0.01, "unobserved_weight": 0.1, "nu": 1.0, "epochs": 16,
    }  # fmt: skip
    assert list(first["seconds"]) == ["fit", "rank"]
    assert first["peak_memory_bytes"] > 2**20
    assert list(first["metrics"]["ndcg@2"]) == ["value", "low", "high"]
    for name in ("seconds", "peak_memory_bytes"):
        del first[name], second[name]
    assert first == second


def test_candidates_are_all_that_is_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Protects sampled protocols: only the rows given, once each; what train does not know is left out and said."""
    pairs = [("a", "c"), ("a", "b"), ("a", "b"), ("b", "d"), ("c", "d"), ("c", "x"), ("e", "a")]
    columns = {"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]}
    candidates = write(tmp_path, "candidates", columns, suffix=".csv")
    ask = [*shop(tmp_path), "--candidates", candidates, "--model", "popularity", "--metrics", "hr@1,recall@9"]
    out, _ = run(capsys, *ask, "--json")
    values = {name: one["value"] for name, one in json.loads(out)["metrics"].items()}
    assert values == {"hr@1": pytest.approx(2 / 3), "recall@9": pytest.approx(2 / 3)}
    assert "candidates: 1 rows of users and 1 rows of items that train does not know" in caplog.text


def test_a_user_without_candidates_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects from a quiet miss: a user of test whose candidates train does not know is named by id."""
    columns = {"user_id": ["a", "c", "c"], "item_id": ["b", "d", "x"]}
    candidates = write(tmp_path, "candidates", columns)
    ask = [*shop(tmp_path), "--candidates", candidates, "--model", "popularity", "--metrics", "hr@1"]
    _, err = run(capsys, *ask, code=2)
    assert "1 users of test have no candidate that train knows, the first is 'b'" in err


def test_a_job_file_names_columns_weights_and_what_is_relevant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Protects --config: its columns, type weights and objective.relevant hold; rare rules and decay spare test."""
    train = {"who": list("abbcccd"), "what": list("aababcd"), "kind": ["buy"] * 7}
    test = {"who": list("abc"), "what": list("bda"), "kind": ["buy", "view", "buy"]}
    write(tmp_path, "train", train)
    write(tmp_path, "test", test)
    job = tmp_path / "job.yaml"
    job.write_text(
        "events: {path: train.parquet, columns: {user: who, item: what, type: kind}, "
        "type_weights: {view: 1, buy: 5}, min_events_per_item: 2}\n"
        "split: {kind: per_user}\nobjective: {relevant: 'weight>=4'}\nseed: 5\n"
    )
    ask = ["--train", tmp_path / "train.parquet", "--test", tmp_path / "test.parquet", "--config", job]
    out, _ = run(capsys, *ask, "--model", "popularity", "--metrics", "hr@1", "--json")
    report = json.loads(out)
    # c and d are rare in train, so dan is unknown to it; bob's d is not relevant; cat has seen a.
    assert report["users"] == {"counted": 2, "unknown": 0, "without_truth": 1}
    assert report["metrics"]["hr@1"]["value"] == 1 / 2
    assert "1 pairs of test are in train, too" in caplog.text


def ratings(folder: Path, *, repeats: bool = False) -> list[object]:
    """A made table of ratings, the last third of the rows as test; with repeats, older ratings of 1 before all."""
    table = make_events()
    cut = 2 * len(table) // 3
    train = table.slice(0, cut)
    if repeats:
        older = train.set_column(2, "weight", pa.array([1.0] * cut, pa.float32())).set_column(
            3, "timestamp", pa.array([1] * cut)
        )
        train = pa.concat_tables([older, train])
    files = [folder / "train.parquet", folder / "test.parquet"]
    for part, file in zip((train, table.slice(cut)), files, strict=True):
        pq.write_table(part, file)
    return ["--train", files[0], "--test", files[1]]


def test_ratings_take_the_last_of_repeated_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects svd from sums of ratings: earlier events of a pair change nothing, by the column timestamp."""
    ask = ["--model", "svd", "--param", "factors=3", "--metrics", "rmse,mae", "--json"]
    plain = json.loads(run(capsys, *ratings(tmp_path), *ask)[0])
    again = json.loads(run(capsys, *ratings(tmp_path, repeats=True), *ask)[0])
    assert plain["metrics"] == again["metrics"]
    assert 0.5 < plain["metrics"]["rmse"]["value"] < 3


def test_a_rating_of_0_is_a_rating(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects labels of 0 and 1: what test says is 0 is in rmse, auc and accuracy, and relevant in no ranking."""
    train = {"user_id": [1, 1, 2, 2, 3, 3], "item_id": [1, 2, 1, 2, 1, 2], "weight": [4.0, 1, 4, 1, 4, 2]}
    test = {"user_id": [1, 2, 3, 3], "item_id": [3, 3, 3, 4], "weight": [0.0, 1, 0, 1]}
    files = [write(tmp_path, "train", train), write(tmp_path, "test", test, suffix=".csv")]
    ask = ["--train", files[0], "--test", files[1], "--model", "svd", "--param", "factors=1", "--json"]
    found = json.loads(run(capsys, *ask, "--metrics", "rmse,auc,accuracy", "--label", "weight>=1")[0])
    assert found["users"]["counted"] == 3
    # predicted are the means 2.5, 2.5, 3, 3
    squares = [2.5**2, 1.5**2, 3.0**2, 2.0**2]
    assert found["metrics"]["rmse"]["value"] == pytest.approx(np.sqrt(np.mean(squares)))
    assert found["metrics"]["accuracy"]["value"] == 1 / 2
    assert found["metrics"]["auc"]["value"] == 1 / 2
    ranked = json.loads(run(capsys, *ask, "--metrics", "recall@2")[0])
    assert ranked["users"] == {"counted": 2, "unknown": 0, "without_truth": 1}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_per_user_rows_have_the_reported_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """Protects --per-user: a row for each user who counts, native ids, means as reported; none for pooled metrics."""
    file = tmp_path / f"users{suffix}"
    ask = ["--model", "svd", "--label", "weight>=4", "--metrics", "ndcg@5,hr@5,auc,coverage@5,accuracy"]
    out, _ = run(capsys, *ratings(tmp_path), *ask, "--per-user", file, "--json")
    report = json.loads(out)
    rows = duckdb.sql(f"SELECT * FROM '{file}'")
    assert rows.columns == ["user_id", "ndcg@5", "hr@5"]
    values = rows.fetchall()
    assert len(values) == report["users"]["counted"]
    assert {row[0] for row in values} <= set(make_events()["user_id"].to_pylist())
    assert np.mean([row[1] for row in values]) == pytest.approx(report["metrics"]["ndcg@5"]["value"])
    assert 0 < report["metrics"]["auc"]["value"] < 1
    assert 0 < report["metrics"]["accuracy"]["value"] < 1


def test_lines_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects what one reads without --json: model, users, each metric with its interval, seconds and memory."""
    out, _ = run(capsys, *shop(tmp_path), "--model", "popularity", "--metrics", "recall@1,gini@2")
    lines = out.splitlines()
    assert lines[:2] == [
        "popularity",
        "3 users counted, 1 not in train, 1 without a held-out item",
    ]
    assert lines[2].startswith("recall@1  0.3333  (0.0000 to ")
    assert "(" not in lines[3]
    assert lines[4].startswith("fit 0.0 s, rank ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--model": "asl"}, 'model: found "asl", which is no model family of this version'),
        ({"--param": "factors"}, '--param "factors": expected name=value'),
        ({"--param": "factors=0"}, "params.factors: found 0, expected a whole number, at least 1"),
        ({"--param": "factor=8"}, "params.factor: unknown parameter"),
        ({"--metrics": "recal@20"}, "did you mean recall"),
        ({"--metrics": "recall"}, "without a cut-off"),
        ({"--metrics": "rmse"}, "rmse needs a model that predicts ratings"),
        ({"--metrics": "auc"}, "auc"),
        ({"--label": "rating>=4"}, "rating>=4"),
        ({"--per-user": "users.xlsx"}, "expected a name that ends in .parquet or .csv"),
        ({"--per-user": "nowhere/users.csv"}, "there is no folder nowhere; make it first"),
        ({"--per-user": "folder.csv"}, "expected a file in a folder that can be written"),
        ({"--label": "weight>=4"}, "none of recall@2 looks at labels"),
        (
            {"--model": "svd", "--metrics": "rmse,recall@2"},
            "test: rmse compare predictions with weights, and ",
        ),
        ({"--per-user": "users.csv", "--metrics": "coverage@3"}, "coverage@3 have no value of one user"),
        ({"--train": "nowhere.parquet"}, "found nothing at 'nowhere.parquet'"),
        ({"--candidates": "nowhere.csv"}, "candidates: found nothing at 'nowhere.csv'"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    said: str,
) -> None:
    """Protects a long fit from being thrown away: each mistake is exit code 2 with its name, nothing on stdout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    options = dict(zip(*[iter(shop(tmp_path))] * 2, strict=True))
    options |= {"--model": "als", "--metrics": "recall@2"} | change
    out, err = run(capsys, *(part for option in options.items() for part in option), code=2)
    assert said in err
    assert out == ""


@pytest.mark.parametrize("what", ["test", "candidates"])
def test_ids_of_another_type_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Protects from a join that finds nobody: 7 and "7" are different ids, and the message says who has which."""
    other = write(tmp_path, "other", {"user_id": ["a"], "item_id": [7]})
    options = dict(zip(*[iter(shop(tmp_path))] * 2, strict=True)) | {f"--{what}": other}
    ask = [part for option in options.items() for part in option]
    _, err = run(capsys, *ask, "--model", "als", "--metrics", "recall@2", code=2)
    assert f"{what} has int64 ids of items, but train has string ids" in err


def started(arguments: list[object], **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with more epochs than it will live."""
    code = "from nightrank.cli import main; main()"
    command = [sys.executable, "-c", code, "evaluate", *map(str, arguments)]
    # whoever started the tests in the background may have left Ctrl-C ignored, which children inherit
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, preexec_fn=heard, **options)


SLOW = ["--model", "ials", "--param", "epochs=1000", "--param", "factors=512", "--metrics", "recall@2"]


def on_terminal(ask: list[object], *, interrupt_at: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Exit code, what a terminal shows of stderr, and stdout. interrupt_at: Ctrl-C once that is shown."""
    reader, writer = pty.openpty()
    process = started(ask, stderr=writer, stdout=subprocess.PIPE)
    os.close(writer)
    seen = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
        if interrupt_at is not None and interrupt_at in seen:
            process.send_signal(signal.SIGINT)
            interrupt_at = None
    out, _ = process.communicate(timeout=60)
    os.close(reader)
    return process.returncode, seen, out


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Protects what was there: interrupted in the fit, the table of the last time stays as it was, alone."""
    ask = ratings(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "users.csv").write_text("user_id\n1\n")
    code, seen, out = on_terminal([*ask, *SLOW, "--per-user", folder / "users.csv"], interrupt_at=b"/1000")
    assert (code, out) == (130, b"")
    assert b"nightrank: stopped" in seen
    assert b"Traceback" not in seen
    assert [file.name for file in folder.iterdir()] == ["users.csv"]
    assert (folder / "users.csv").read_text() == "user_id\n1\n"


def test_what_is_shown_never_ends_a_fit(tmp_path: Path) -> None:
    """Protects people at a terminal: a sample that cannot be measured shows no metric, and the command goes on."""
    pairs = [("a", "c"), ("b", "d"), ("c", "b")]
    columns = {"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]}
    (tmp_path / "job.yaml").write_text(
        "events: {path: train.parquet, columns: {weight: weight}}\n"
        "split: {kind: per_user}\nobjective: {relevant: 'weight>=2'}\n"
    )
    train = write(tmp_path, "train", TRAIN | {"weight": [1.0] * 7})
    test = write(tmp_path, "test", columns | {"weight": [2.0, 1.0, 1.0]})
    ask = ["--train", train, "--test", test, "--config", tmp_path / "job.yaml"]
    code, seen, _ = on_terminal([*ask, "--model", "ials", "--param", "epochs=2", "--metrics", "recall@2"])
    assert code == 0, seen


def test_progress_shows_on_a_terminal_alone(tmp_path: Path) -> None:
    """Protects logs and terminals: epochs, loss, metric and time left on a terminal; in a pipe not a byte."""
    ask = [*ratings(tmp_path), "--model", "ials", "--param", "epochs=3", "--metrics", "recall@2"]
    piped = started(ask, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert piped.communicate(timeout=120)[1] == b""
    code, seen, _ = on_terminal(ask)
    assert code == 0
    for word in (b"epochs", b"3/3", b"loss ", b"recall@2 0.", b"users ranked"):
        assert word in seen
