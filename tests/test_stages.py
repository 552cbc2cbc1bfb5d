"""The order of stages, what a rerun takes for done, and one process at a time; no cluster needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from made import make_events, make_items, make_job, place, published_release, scored_run, trained_run
from nightrank.batch.inputs import find_inputs, load_interactions, load_items
from nightrank.batch.nightly import check_order, is_done, open_run, run_stages
from nightrank.batch.score import missing_units
from nightrank.batch.units import record_name, unit_files
from nightrank.config.cluster import load_cluster
from nightrank.errors import DataError, ReleaseError, StoreConflict
from nightrank.release.lease import leased
from nightrank.release.manifest import CURRENT, current, release_key
from nightrank.release.publish import activate

ROOT = Path(__file__).resolve().parent.parent


def test_a_stage_waits_for_the_one_before(tmp_path: Path) -> None:
    """train before sweep, score before train and publish before score are refused by name."""
    run = open_run(make_job(tmp_path))
    for stage, missing in (("score", "train"), ("publish", "score")):
        with pytest.raises(DataError, match=f"has not finished its {missing} stage"):
            check_order(run, (stage,))
    check_order(run, ("train",))  # the job names its model, so there is no sweep to wait for
    swept = open_run(make_job(tmp_path / "swept", train={}))
    with pytest.raises(DataError, match="has not finished its sweep stage"):
        check_order(swept, ("train",))


def test_units_that_are_damaged_before_publishing_are_scored_again(tmp_path: Path) -> None:
    """A recorded unit counts as done only while each of its files is what the record says."""
    run = scored_run(tmp_path)
    assert missing_units(run) == []
    everything = missing_units(trained_run(make_job(tmp_path / "other")))
    for unit, name in zip(everything, (0, 1, 2), strict=False):
        path = place(run.store, release_key(run.record.release, unit_files(unit)[name]))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert missing_units(run) == everything[:3]
    place(run.store, run.name(record_name(everything[3]))).unlink()
    assert missing_units(run) == everything[:4]


@pytest.mark.parametrize("kind", ["per_user", "temporal", "random_mask"])
def test_every_kind_of_split_leads_to_a_release(tmp_path: Path, kind: str) -> None:
    """The gate judges on the split that the job names, and the release is fitted on all events whatever it is."""
    published = published_release(tmp_path, split={"kind": kind})
    train = published.run.finished("train")
    assert 0 < train["quality"]["n_users"] <= 60
    assert train["model"]["pairs"] == len(make_events())


def test_one_process_works_on_a_run_at_a_time(tmp_path: Path) -> None:
    """The second of two equal commands ends at once and says that the first is at it."""
    run = open_run(make_job(tmp_path))
    actors = load_cluster(ROOT / "cluster.yaml")
    with (
        leased(run.store, run.name("lease")),
        pytest.raises(StoreConflict, match="held by another process"),
    ):
        run_stages(run, actors, stages=("train",))


def test_a_run_that_was_removed_before_its_lease_was_held_is_refused(tmp_path: Path) -> None:
    """An erasure between the two would leave a run that trains, but whose run.json nobody finds any more."""
    run = open_run(make_job(tmp_path))
    record = run.store.read(run.name("run.json"))
    assert record is not None
    for data in (None, record.data.replace(b'"created": "2', b'"created": "3')):
        run.store.delete_folder(f"runs/{run.key}")
        if data is not None:
            run.store.put(run.name("run.json"), data)
        with pytest.raises(DataError, match=f"run {run.key} was removed .*; run the command again"):
            run_stages(run, load_cluster(ROOT / "cluster.yaml"), stages=("train",))
        assert "stages" not in run.store.children(f"runs/{run.key}")


def test_item_ids_of_another_type_are_refused_while_training(tmp_path: Path) -> None:
    """Items under text ids beside events under integers are found before anything is scored."""
    job = make_job(tmp_path, items=make_items(items="string"))
    inputs = find_inputs(job)
    with pytest.raises(DataError, match="has string ids in column item_id, the events have int64"):
        load_items(job, inputs, item_ids=load_interactions(job, inputs, family="als").item_ids)


def test_a_missing_item_table_is_refused_by_name(tmp_path: Path) -> None:
    """A wrong items.path ends with what was looked for, not with a traceback."""
    job = make_job(tmp_path, items=make_items())
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(DataError, match="items: found nothing at"):
        find_inputs(job)


def test_a_stage_whose_outcome_is_gone_is_not_done(tmp_path: Path) -> None:
    """Deleting the model or the release makes the stages that made them run again, though they are recorded."""
    run = published_release(tmp_path).run
    assert is_done(run, "train")
    assert is_done(run, "publish")
    shutil.rmtree(place(run.store, release_key(run.record.release)))
    assert not is_done(run, "publish")
    assert not is_done(run, "score")
    vectors = place(run.store, run.name("model/user_vectors.npy"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    assert not is_done(run, "train")


def test_lists_of_another_model_are_scored_again(tmp_path: Path) -> None:
    """A record of lists that another fit gave does not count, although its files are intact."""
    run = scored_run(tmp_path)
    card = place(run.store, run.name("model/model.json"))
    card.write_text(card.read_text().replace('"seed":0', '"seed":1').replace('"seed": 0', '"seed": 1'))
    assert missing_units(run) == []  # the arrays, not the seed, are the model
    record = run.get_json("buckets/recommendations-00000-of-00004.json")
    run.put_json("buckets/recommendations-00000-of-00004.json", record | {"model_hash": "0" * 64})
    assert [unit["part"] for unit in missing_units(run)] == [0]


def test_events_that_change_under_a_run_are_refused(tmp_path: Path) -> None:
    """What is fitted is what the fingerprint in the manifest says, also when the export is replaced meanwhile."""
    job = make_job(tmp_path)
    inputs = find_inputs(job)
    load_interactions(job, inputs, family="als")
    pq.write_table(make_events(seed=9), tmp_path / "events.parquet")
    with pytest.raises(DataError, match="were changed while the run was at work"):
        load_interactions(job, inputs, family="als")


def test_a_late_stage_begins_no_run(tmp_path: Path) -> None:
    """score on an empty store leaves nothing behind that would fix a release id or a baseline."""
    with pytest.raises(DataError, match="has not finished its train stage"):
        open_run(make_job(tmp_path), first="score")
    assert not (tmp_path / "store").exists()


def test_a_broken_current_is_named_and_mended_by_activate(tmp_path: Path) -> None:
    """Garbage in CURRENT stops a night with the cure, and activate puts a release there."""
    published = published_release(tmp_path)
    published.store.put(CURRENT, b"garbage\n")
    with pytest.raises(ReleaseError, match=r"CURRENT .* 'garbage'.*releases activate"):
        open_run(make_job(tmp_path, seed=8))
    activate(published.store, published.release.id)
    assert current(published.store)[0] == published.release.id
