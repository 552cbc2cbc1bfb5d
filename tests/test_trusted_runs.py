"""What a run left behind is not taken on trust: damaged models, records of other units, items that changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import made
from harm import content, flip
from nightrank.batch import units
from nightrank.batch.nightly import is_done
from nightrank.batch.publish import publish
from nightrank.batch.run import Run
from nightrank.batch.score import missing_units, score
from nightrank.batch.units import record_name, unit_files
from nightrank.config.cluster import load_cluster
from nightrank.errors import DataError, ReleaseError, StoreConflict
from nightrank.release.manifest import current, release_key
from nightrank.release.model_files import save_model
from nightrank.release.publish import activate, published, verify

ROOT = Path(__file__).resolve().parent.parent


def record_of(run: Run, unit: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = run.get_json(record_name(unit))
    return found


def test_a_damaged_model_is_found_before_anything_is_scored(tmp_path: Path) -> None:
    """One flipped bit in a vector: train does not count as done, and score refuses by the file's name."""
    run = made.scored_run(tmp_path)
    assert is_done(run, "train")
    flip(made.place(run.store, run.name("model/user_vectors.npy")), -3)
    assert not is_done(run, "train")
    with pytest.raises(ReleaseError, match=r"user_vectors\.npy of runs/.* fits the model anew"):
        score(run, load_cluster(ROOT / "cluster.yaml"))


def test_a_model_that_is_saved_again_is_none_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while arrays are replaced leaves no model, never the card of one beside arrays of another."""
    run = made.trained_run(made.make_job(tmp_path))
    monkeypatch.setattr("nightrank.release.model_files.save_array", broken)
    with pytest.raises(KeyboardInterrupt):
        save_again(run)
    assert not made.place(run.store, run.name("model/model.json")).exists()
    assert not is_done(run, "train")


def broken(*given: Any) -> None:
    raise KeyboardInterrupt


def save_again(run: Run) -> None:
    from nightrank.batch.inputs import load_interactions
    from nightrank.models import fit

    interactions = load_interactions(run.job, run.inputs, family="als")
    model = fit("als", interactions, params=run.job.train.params, seed=0, threads=1)
    save_model(model, interactions, store=run.store, key=run.name("model"), n_buckets=4, seed=0)


@pytest.mark.parametrize(
    "wrong", ["copied", "no files", "more files", "users", "items", "versions", "no text"]
)
def test_a_record_of_something_else_does_not_count(tmp_path: Path, wrong: str) -> None:
    """A record that cannot be that of its unit has the unit written again, and publish refuses to go by it."""
    run = made.scored_run(tmp_path)
    before = content(made.place(run.store, release_key(run.record.release)))
    one, two = made.units_of(run)[:2]
    record = record_of(run, two)
    changes: dict[str, dict[str, Any]] = {
        "copied": record_of(run, one),
        "no files": {"files": {}},
        "more files": {"files": record["files"] | {"../../x": record["files"][unit_files(two)[0]]}},
        "users": {"users": record["users"] + 1},
        "items": {"recommended": "AA=="},
        "versions": {"versions": {**units.VERSIONS, "numpy": "0"}},
        "no text": {"recommended": "%%"},
    }
    run.put_json(record_name(two), record | changes[wrong])
    assert missing_units(run) == [two]
    with pytest.raises(ReleaseError, match="run the score stage again"):
        publish(run)
    assert published(run.store) == []
    made.scorer_of(run).write(two)
    publish(run)
    verify(run.store, run.record.release)
    after = content(made.place(run.store, release_key(run.record.release)))
    assert {name: after[name] for name in before} == before


def test_items_that_changed_are_not_published_under_the_old_fingerprint(tmp_path: Path) -> None:
    """What a manifest says of its inputs holds for titles and categories too."""
    run = made.scored_run(tmp_path)
    table = pq.read_table(tmp_path / "items.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "items.parquet")
    with pytest.raises(DataError, match="items or users were changed"):
        publish(run)
    assert published(run.store) == []


def test_a_rerun_does_not_undo_a_rollback(tmp_path: Path) -> None:
    """The process ended after CURRENT moved and before it was recorded; then somebody went back."""
    first = made.published_release(tmp_path / "first")
    run = made.scored_run(tmp_path / "second", store=first.store.url, seed=1)
    publish(run)
    made.place(run.store, run.name("stages/publish.json")).unlink()
    activate(run.store, first.release.id)
    publish(run)
    assert current(run.store)[0] == first.release.id
    assert is_done(run, "publish")


def test_who_lost_the_lease_publishes_nothing(tmp_path: Path) -> None:
    """Asked before files are removed, before the manifest and before CURRENT: who took over is not disturbed."""
    run = made.scored_run(tmp_path)
    stranger = made.place(run.store, release_key(run.record.release, "arrays/of-the-other.npy"))
    for asked in range(3):
        stranger.write_bytes(b"x")
        left = [asked]

        def still(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise StoreConflict("lost")

        with pytest.raises(StoreConflict, match="lost"):
            publish(run, still=still)
        assert stranger.exists() == (asked == 0)
        assert (published(run.store) == []) == (asked < 2)
        assert current(run.store)[0] is None
    publish(run)
    assert current(run.store)[0] == run.record.release


def test_records_say_which_libraries_wrote_them(tmp_path: Path) -> None:
    """Equal bytes are promised for equal versions, so a resume after an upgrade has to know."""
    run = made.scored_run(tmp_path)
    for unit in made.units_of(run):
        assert record_of(run, unit)["versions"] == units.VERSIONS
    assert json.dumps(units.VERSIONS)
