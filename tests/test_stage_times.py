"""Seconds per stage for /v1/stats: from the records of runs, whoever started them; bounded, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import made
from nightrank.batch.nightly import run_stages
from nightrank.config.cluster import load_cluster
from nightrank.errors import StoreUnreachable
from nightrank.release.store import LocalStore
from nightrank.service import stage_times
from nightrank.service.job_schemas import StageSeconds
from nightrank.service.stage_times import N_RUNS, StageTimes

CLUSTER = Path(__file__).resolve().parent.parent / "cluster.yaml"


class CountingStore(LocalStore):
    """A real store that counts what is read of it, and can go away."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.n_reads = 0
        self.is_there = True

    def read(self, key: str) -> Any:
        self.n_reads += 1
        if not self.is_there:
            raise StoreUnreachable(f"{key} cannot be read: no answer")
        return super().read(key)


def put_run(store: LocalStore, number: int, **stages: Any) -> str:
    """Records as a run leaves them; begun on the given day of 2026."""
    key = f"{number:016x}"
    store.put(f"runs/{key}/run.json", json.dumps({"created": f"2026-01-{number:02}T00:00:00Z"}).encode())
    for stage, record in stages.items():
        value = record if isinstance(record, bytes) else json.dumps(record).encode()
        store.put(f"runs/{key}/stages/{stage}.json", value)
    return key


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    """An empty store that is looked at every time."""
    monkeypatch.setattr(stage_times, "FRESH_S", 0.0)
    return CountingStore(tmp_path)


def test_an_empty_store_has_none(store: CountingStore) -> None:
    """Before the first night there is nothing to say."""
    assert StageTimes(store).recent() == {}


def test_last_is_the_stage_that_ended_last(store: CountingStore) -> None:
    """An older run that was taken up again is the recent one; a record that does not say when counts by its run."""
    put_run(store, 1, train={"seconds": 10.0, "ended": "2026-02-01T00:00:00Z"}, score={"seconds": 1.0})
    put_run(store, 2, train={"seconds": 20.0, "ended": "2026-01-02T01:00:00Z"}, score={"seconds": 2.0})
    put_run(store, 3, train={"seconds": 60.5})
    assert StageTimes(store).recent() == {
        "train": StageSeconds(last=10.0, mean=30.17, runs=3),
        "score": StageSeconds(last=2.0, mean=1.5, runs=2),
    }


@pytest.mark.parametrize(
    "broken", [b"", b"{", b"[]", b'{"seconds": "x"}', b'{"seconds": -1}', b'{"seconds": NaN}']
)
def test_a_broken_record_counts_for_nothing(
    store: CountingStore, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    """Statistics are no reason to fail; the log says which record it is."""
    put_run(store, 1, train={"seconds": 1.0})
    key = put_run(store, 2, train=broken)
    assert StageTimes(store).recent() == {"train": StageSeconds(last=1.0, mean=1.0, runs=1)}
    assert f"runs/{key}/stages/train.json" in caplog.text
    store.path(f"runs/{key}/stages/train.json").unlink()
    store.path(f"runs/{key}/stages/train.json").symlink_to("/dev/zero")
    assert StageTimes(store).recent()["train"].runs == 1


def test_only_the_newest_runs_count(store: CountingStore) -> None:
    """A store with years of runs costs no more, and old nights do not hide that the new ones are slower."""
    for number in range(1, N_RUNS + 6):
        put_run(store, number, train={"seconds": float(number)})
    mean = sum(range(6, N_RUNS + 6)) / N_RUNS
    assert StageTimes(store).recent() == {"train": StageSeconds(last=N_RUNS + 5.0, mean=mean, runs=N_RUNS)}


def test_what_is_known_is_not_read_again(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked often, only stages that are not finished yet are looked for, and nothing at all for some seconds."""
    stages = {stage: {"seconds": 1.0} for stage in stage_times.STAGES}
    put_run(store, 1, **stages)
    times = StageTimes(store)
    times.recent()
    store.n_reads = 0
    assert times.recent()["publish"].runs == 1
    assert store.n_reads == 0
    put_run(store, 2, **stages)
    assert times.recent()["publish"].runs == 2
    monkeypatch.setattr(stage_times, "FRESH_S", 60.0)
    put_run(store, 3, **stages)
    assert times.recent()["publish"].runs == 2


def test_a_store_that_is_gone_changes_nothing(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Statistics go on with what is known while the store does not answer; the log says so."""
    put_run(store, 1, train={"seconds": 1.0})
    times = StageTimes(store)
    known = times.recent()
    store.is_there = False
    put_run(store, 2, train={"seconds": 2.0})
    assert times.recent() == known != {}
    assert "cannot be read" in caplog.text


def test_who_asks_while_it_is_read_does_not_wait(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store holds one thread of the service, not one for each caller."""
    put_run(store, 1, train={"seconds": 1.0})
    times = StageTimes(store)
    known = times.recent()
    heard: list[object] = []

    def slow(_: str) -> list[str]:
        heard.append(times.recent())
        return []

    monkeypatch.setattr(store, "children", slow)
    assert times.recent() == {}
    assert heard == [known]


def test_a_run_that_was_removed_is_forgotten(store: CountingStore) -> None:
    """Pruned and erased runs leave the statistics, too."""
    key = put_run(store, 1, train={"seconds": 1.0})
    times = StageTimes(store)
    assert times.recent() != {}
    store.delete_folder(f"runs/{key}")
    assert times.recent() == {}


def test_a_real_run_says_its_seconds_and_when_it_ended(tmp_path: Path) -> None:
    """The records that stages write are those that are read here."""
    run = made.scored_run(tmp_path)
    run_stages(run, load_cluster(CLUSTER), stages=["publish"])
    record = run.stage("publish")
    assert record is not None
    assert record["ended"] >= run.record.created
    found = StageTimes(run.store).recent()
    assert set(found) == {"train", "score", "publish"}
    assert found["publish"] == StageSeconds(last=record["seconds"], mean=record["seconds"], runs=1)
