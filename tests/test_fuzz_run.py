"""Garbage in the records of a run: told by name or made anew, never taken for work that was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import made
from nightrank.batch.nightly import is_done, open_run, summary
from nightrank.batch.publish import publish
from nightrank.batch.run import LATEST, Run, chosen_run
from nightrank.batch.score import missing_units
from nightrank.errors import NightrankError, ReleaseError

GARBAGE = {
    "empty": b"",
    "half": b'{"files": {"a',
    "no-utf8": b"\xff\xfe\0{",
    "list": b"[1, 2]",
    "number": b"17",
    "text": b'"done"',
    "no-keys": b"{}",
    "wrong-types": b'{"files": 1, "model": 2, "model_hash": [], "users": "x", "rows": null, "quality": 3}',
    "deep": b"[" * 200_000,
    "long-number": b'{"rows": ' + b"9" * 5000 + b"}",
}
RECORDS = (
    "run.json",
    "stages/train.json",
    "stages/score.json",
    "buckets/recommendations-00001-of-00004.json",
    "buckets/similar_items-00000-of-00001.json",
)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its publish stage left; no test changes it."""
    return made.scored_run(tmp_path_factory.mktemp("scored"))


@pytest.fixture
def run(scored: Run, tmp_path: Path) -> Run:
    """The same in a store of its own."""
    shutil.copytree(scored.store.url, tmp_path / "store")
    return open_run(scored.job.model_copy(update={"store": str(tmp_path / "store")}))


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_in_a_record_is_an_error_with_its_name(run: Run, name: str, kind: str) -> None:
    """Whatever a stage asks of a broken record, the answer is an error that names it, and deleting it is a cure."""
    run.store.put(run.name(name), GARBAGE[kind])
    told = [message for message in map(told_by, questions(run)) if message is not None]
    assert any(Path(name).stem in message for message in told), told
    run.store.delete(run.name(name))
    if name.startswith("buckets/"):
        assert len(missing_units(run)) == 1  # the cure that the message names


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe\x00", b"", b"../../x", *GARBAGE.values()], ids=range(3 + len(GARBAGE))
)
def test_garbage_for_the_latest_run_is_an_error_with_its_name(run: Run, raw: bytes) -> None:
    """`--run latest` of a pointer that names no run tells what stands there, and that a plain run writes it anew."""
    run.store.put(LATEST, raw)
    with pytest.raises(ReleaseError, match=r"runs/LATEST in store .* expected a run key .* leave out --run"):
        chosen_run(run.store, run.job, run.inputs, key="latest")
    assert open_run(run.job).key == run.key
    assert chosen_run(run.store, run.job, run.inputs, key="latest").key == run.key


def questions(run: Run) -> list[Callable[[], object]]:
    """What the commands do with a run, in the order in which they do it."""
    return [
        lambda: open_run(run.job),
        lambda: [is_done(run, stage) for stage in ("sweep", "train", "score", "publish")],
        lambda: missing_units(run),
        lambda: publish(run),
        lambda: summary(run),
    ]


def told_by(question: Callable[[], object]) -> str | None:
    """The message of an error of ours, None where there was none; any other error fails the test."""
    try:
        question()
    except NightrankError as error:
        return str(error)
    return None
