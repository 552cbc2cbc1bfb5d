"""A file that the kernel takes no more of, in the middle of a write: named, with what to do, nothing half visible.

RLIMIT_FSIZE needs no root: a write beyond it fails with EFBIG where a full disk fails
with ENOSPC.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import made
from harm import content, refusal
from made import COLUMNS
from nightrank.batch.nightly import open_run
from nightrank.batch.publish import publish
from nightrank.batch.run import Run
from nightrank.batch.score import missing_units
from nightrank.batch.scorer import ScoreUnits
from nightrank.batch.units import all_units
from nightrank.config.job import load_job
from nightrank.release import open_release
from nightrank.release.files import save_array
from nightrank.release.manifest import current, release_key
from nightrank.release.model_files import open_model
from nightrank.release.publish import published, verify
from nightrank.release.store import LocalStore

# The publish stage asks Ray for nothing: the command runs as it is but for the cluster that it would join.
PUBLISH = """
import contextlib, resource, sys
from nightrank.cli import main, night
night.some_cluster = contextlib.nullcontext
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
main(["publish", "--config", sys.argv[2]])
"""


@contextlib.contextmanager
def limited(n_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond n_bytes meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job file, its inputs and a store in which only score and publish are left."""
    folder = tmp_path_factory.mktemp("trained")
    made.make_job(
        folder, events=made.make_events(n_users=400, n_items=120), items=made.make_items(n_items=120)
    )
    job = {
        "store": str(folder / "store"),
        "events": {"path": str(folder / "events.parquet"), "columns": COLUMNS},
        "items": {"path": str(folder / "items.parquet"), "title": "title", "categories": "genres"},
        "train": {"model": "als", "params": {"factors": 16, "epochs": 2}},
        "score": {"k": 20, "buckets": 2, "similar_items_k": 10},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    made.trained_run(load_job(folder / "job.yaml"))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """The same run in a store of its own."""
    job = yaml.safe_load((trained / "job.yaml").read_text())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job | {"store": str(tmp_path / "store")}))
    shutil.copytree(trained / "store", tmp_path / "store")
    return open_run(load_job(tmp_path / "job.yaml"))


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The release of the same run on a disk with room."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(trained / "store", store)
    run = made.score_in_process(open_run(load_job(trained / "job.yaml", overrides=[f"store={store}"])))
    publish(run)
    return files_of(run)


def files_of(run: Run) -> dict[str, bytes]:
    """Every file of the release in service but the manifest, which has to verify."""
    release = open_release(run.store)
    verify(run.store, release.id)
    return {
        name: raw
        for name, raw in content(made.place(run.store, release_key(release.id))).items()
        if name != "manifest.json"
    }


def half_written(run: Run) -> list[str]:
    return [path.name for path in Path(run.store.url).rglob(".*") if path.name != ".lock"]


def scorer_of(run: Run) -> ScoreUnits:
    """The class that Ray Data runs, with its index prepared."""
    scorer = ScoreUnits(
        store=run.store.url,
        run=run.name(""),
        run_key=run.key,
        release=run.record.release,
        settings=run.job.score.model_dump(),
        metric="ndcg@10",
        n_threads=1,
    )
    _ = (scorer._recommender, scorer._similar)
    return scorer


def test_a_scorer_that_cannot_write_names_the_file(run: Run, undisturbed: dict[str, bytes]) -> None:
    """A list cut short is told to the driver by its path with the cure, leaves nothing, and is written next time."""
    scorer, units = scorer_of(run), list(all_units(open_model(run.store, run.name("model"))))
    with limited(6_000):
        told = [scorer({key: np.array([unit[key]]) for key in unit})["problem"][0] for unit in units]
    problems = [problem for problem in told if problem]
    assert problems, "nothing was cut short"
    for problem in problems:
        assert problem.startswith(str(made.place(run.store, "releases")))
        assert "File too large" in problem
        assert "run the same command again" in problem
    assert len(missing_units(run)) == len(problems)
    assert half_written(run) == []
    publish(made.score_in_process(run))
    assert files_of(run) == undisturbed


def test_an_array_cut_short_is_named(tmp_path: Path) -> None:
    """numpy says how many bytes it wrote and not why; the file that was there stays as it was."""
    path, store = tmp_path / "scores.npy", LocalStore(tmp_path)
    save_array(store, "scores.npy", np.arange(4))
    with limited(1_000):
        message = refusal(lambda: save_array(store, "scores.npy", np.arange(4_000)))
    assert message.startswith(f"{path} cannot be written: the disk took no more of it")
    assert np.load(path).tolist() == [0, 1, 2, 3]
    assert [found.name for found in tmp_path.iterdir()] == ["scores.npy"]


@pytest.mark.parametrize("n_bytes", [200, 3_000])
def test_a_publish_that_cannot_write_leaves_nothing_to_see(
    run: Run, undisturbed: dict[str, bytes], n_bytes: int
) -> None:
    """Wherever the disk is full no release exists, nothing is half written, and the next try makes it whole."""
    made.score_in_process(run)
    with limited(n_bytes):
        message = refusal(lambda: publish(run))
    assert message.startswith(str(made.place(run.store, "releases")))
    assert (published(run.store), current(run.store)) == ([], (None, None))
    assert half_written(run) == []
    publish(run)
    assert files_of(run) == undisturbed


def test_a_command_that_cannot_write_ends_with_one_line(run: Run) -> None:
    """nightrank publish ends with exit code 1, the file and what to do; no traceback."""
    made.score_in_process(run)
    config = Path(run.store.url).parent / "job.yaml"
    command = [sys.executable, "-c", PUBLISH, "3000", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("nightrank: ")]
    assert len(told) == 1, done.stderr
    assert f"nightrank: {made.place(run.store, 'releases')}" in told[0]
    assert "cannot be written: File too large" in told[0]
    assert "run the same command again" in told[0]
    assert "Traceback" not in done.stderr


def test_a_run_with_other_inputs_never_takes_leftovers(run: Run, tmp_path: Path) -> None:
    """Half of a scored run lies there; other settings or other events begin a run of their own, with all to do."""
    made.score_in_process(run)
    leftovers = content(Path(run.store.url))
    others = [run.job.model_copy(update={"seed": 9})]
    changed = made.make_events(n_users=400, n_items=120, seed=1)
    others.append(made.make_job(tmp_path / "changed", events=changed, store=run.store.url, items=[]))
    for job in others:
        other = made.trained_run(job)
        assert other.key != run.key
        assert other.record.release != run.record.release
        assert missing_units(other) == list(all_units(open_model(other.store, other.name("model"))))
        publish(made.score_in_process(other))
        alone = made.trained_run(job.model_copy(update={"store": str(tmp_path / other.key)}))
        publish(made.score_in_process(alone))
        assert files_of(other) == files_of(alone)
    now = content(Path(run.store.url))
    assert {name: now.get(name) for name in leftovers if "LATEST" not in name} == {
        name: raw for name, raw in leftovers.items() if "LATEST" not in name
    }
