"""Releases are published whole or not at all, put in service by compare-and-swap, and held back by the gate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import harm
import made
from harm import content, flip, refusal, second_run
from made import Published
from nightrank.batch.inputs import find_inputs
from nightrank.batch.publish import publish
from nightrank.batch.run import Run, chosen_run, start_run
from nightrank.batch.units import record_name
from nightrank.errors import DataError, GateRefused, StoreConflict
from nightrank.release.manifest import CURRENT, current, read_manifest, release_key
from nightrank.release.publish import activate, published, verify, write_release
from nightrank.release.reader import open_release
from nightrank.release.store import open_store

# Fixtures: pytest finds them by their names here; imported, every argument would redefine one (F811)
release = harm.release
copy = harm.copy


# -- existence and the pointer ---------------------------------------------------------------------------


def test_a_release_without_a_manifest_does_not_exist(copy: Published) -> None:
    """A night that was killed before its last write left nothing that anybody lists, opens or activates."""
    release_id = copy.release.id
    (copy.folder / "manifest.json").unlink()
    assert published(copy.store) == []
    for call in (open_release, verify, activate, read_manifest):
        assert "has no manifest" in refusal(lambda call=call: call(copy.store, release_id))


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    """Nothing published is an error with a cure, not a crash."""
    store = open_store(str(tmp_path / "nothing-here"))
    assert published(store) == []
    assert current(store) == (None, None)
    assert "nightrank nightly" in refusal(lambda: open_release(store))


@pytest.mark.parametrize(
    "name", ["../../etc", "x", "", "20261121T031500Z-0123456789AB", "20261121T031500Z-0123456789ab/.."]
)
def test_what_is_no_release_id_is_refused(copy: Published, name: str) -> None:
    """An id from a request or a CURRENT file cannot name anything but a release folder."""
    for call in (open_release, verify, activate):
        assert "is not a release id" in refusal(lambda call=call: call(copy.store, name))
    copy.store.put(CURRENT, f"{name}\n".encode())
    assert "is not a release id" in refusal(lambda: open_release(copy.store))


def test_folders_that_are_no_releases_are_not_listed(copy: Published) -> None:
    """Strangers in releases/ are ignored; releases are listed oldest first."""
    older = "20010101T000000Z-0123456789ab"
    shutil.copytree(copy.folder, copy.folder.parent / older)
    shutil.copytree(copy.folder, copy.folder.parent / "backup")
    (copy.folder.parent / "notes.txt").write_text("x")
    assert published(copy.store) == [older, copy.release.id]


def test_publish_moves_current_to_the_new_release(copy: Published, tmp_path: Path) -> None:
    """The next night's release replaces the one in service, and says which that was."""
    run = second_run(copy, tmp_path / "second")
    assert publish(run)["before"] == copy.release.id
    assert current(copy.store)[0] == run.record.release
    assert published(copy.store) == sorted([copy.release.id, run.record.release])


def test_current_moved_in_between_is_a_conflict(copy: Published, tmp_path: Path) -> None:
    """A night does not undo what somebody put in service meanwhile: its release exists, CURRENT stays."""
    late = second_run(copy, tmp_path / "late")
    other = made.scored_run(tmp_path / "other", store=copy.store.url, seed=2)
    publish(other)
    with pytest.raises(StoreConflict, match="complete but not in service; `nightrank releases activate"):
        publish(late)
    assert current(copy.store)[0] == other.record.release
    assert late.record.release in published(copy.store)
    assert late.stage("publish") is None
    assert activate(copy.store, late.record.release) == other.record.release
    assert open_release(copy.store).id == late.record.release


def test_a_rerun_of_publish_moves_nothing_back(copy: Published, tmp_path: Path) -> None:
    """After an operator has activated another release a rerun of the night is a no-op."""
    run = second_run(copy, tmp_path / "second")
    done = publish(run)
    activate(copy.store, copy.release.id)
    before = content(Path(copy.store.url))
    assert publish(run) == done
    assert content(Path(copy.store.url)) == before
    assert current(copy.store)[0] == copy.release.id


def test_publish_killed_before_current_moved_is_finished_by_a_rerun(copy: Published, tmp_path: Path) -> None:
    """A manifest without the pointer: the rerun only moves the pointer, the files stay as they are."""
    run = second_run(copy, tmp_path / "second")
    publish(run)
    run.store.put(CURRENT, f"{copy.release.id}\n".encode())
    run.store.delete(run.name("stages/publish.json"))
    folder = made.place(run.store, release_key(run.record.release))
    before = content(folder)
    publish(run)
    assert content(folder) == before
    assert current(copy.store)[0] == run.record.release


def test_leftovers_of_a_killed_writer_are_not_published(tmp_path: Path) -> None:
    """Temporary files in a release folder that nobody can see yet are gone from the release."""
    run = made.scored_run(tmp_path)
    folder = made.place(run.store, release_key(run.record.release))
    (folder / "recommendations" / ".part-00000-of-00004.parquet.abc.parquet").write_bytes(b"half")
    (folder / "arrays" / "old.npy").write_bytes(b"old")
    publish(run)
    assert set(content(folder)) == {*read_manifest(run.store, run.record.release).files, "manifest.json"}


@pytest.mark.parametrize("name", ["recommendations", "similar_items"])
def test_a_file_damaged_between_score_and_publish_is_not_published(tmp_path: Path, name: str) -> None:
    """Checksums are taken when a file is written and compared before the manifest exists."""
    run = made.scored_run(tmp_path)
    folder = made.place(run.store, release_key(run.record.release))
    path = sorted((folder / name).glob("*.parquet"))[0]
    flip(path, -100)
    assert path.name in refusal(lambda: publish(run))
    assert published(run.store) == []
    assert current(run.store) == (None, None)


def test_publish_needs_the_score_stage(tmp_path: Path) -> None:
    """Publishing a run that was only trained names the stage that is missing."""
    run = made.trained_run(made.make_job(tmp_path))
    with pytest.raises(DataError, match="has not finished its score stage"):
        publish(run)
    run.put_json("stages/score.json", {"users": 1, "rows": 1, "empty_users": 0, "seconds": 0.0})
    assert "run the score stage again" in refusal(lambda: publish(run))


def test_a_run_is_found_again_and_refused_for_other_inputs(tmp_path: Path) -> None:
    """The same work finds its own run; --run with changed files or settings is refused by name."""
    job = made.make_job(tmp_path)
    run = made.trained_run(job)
    assert start_run(run.store, job, run.inputs).record == run.record
    assert chosen_run(run.store, job, run.inputs, key="latest").record == run.record
    with pytest.raises(DataError, match="began with other settings"):
        chosen_run(run.store, job.model_copy(update={"seed": 9}), run.inputs, key=run.key)
    changed = find_inputs(made.make_job(tmp_path / "other", events=made.make_events(seed=1)))
    with pytest.raises(DataError, match="began with other files"):
        chosen_run(run.store, job, changed, key=run.key)
    with pytest.raises(DataError, match="has no run nosuchkey"):
        chosen_run(run.store, job, run.inputs, key="nosuchkey")


def test_items_of_another_id_type_are_refused_by_name(tmp_path: Path) -> None:
    """Text ids in the item table of integer events are a DataError, not a crash of the Parquet library: before
    anything is fitted, and where the table was changed since."""
    texts = made.make_items(items="string")
    with pytest.raises(DataError, match=r"items.*string.*int64"):
        made.trained_run(made.make_job(tmp_path / "early", items=texts))
    run = made.scored_run(tmp_path)
    assert run.job.items is not None
    pq.write_table(texts, run.job.items.path)
    with pytest.raises(DataError, match="items or users were changed"):
        publish(run)
    assert published(run.store) == []


def test_a_manifest_written_twice_is_a_conflict(release: Published, tmp_path: Path) -> None:
    """Two publishers of one run: the manifest is created once and never overwritten."""
    copy = made.copied(release, tmp_path)
    with pytest.raises(StoreConflict):
        write_release(copy.store, release.release.manifest)


# -- the structure gate ----------------------------------------------------------------------------------


def gate(settings: dict[str, float], folder: Path, first: Published) -> Run:
    return made.scored_run(folder, store=first.store.url, seed=1, gate=settings, score={"k": 1})


def test_low_coverage_is_refused_and_what_is_in_service_stays(copy: Published, tmp_path: Path) -> None:
    """A release that shows too little of the catalogue is refused with exit code 3 and exists for nobody."""
    run = gate({"min_coverage": 0.9}, tmp_path / "second", copy)
    with pytest.raises(GateRefused, match=r"coverage is 0\.\d+: \d+ of 40 items .* asks for 0\.9") as refused:
        publish(run)
    assert refused.value.exit_code == 3
    assert published(copy.store) == [copy.release.id]
    assert current(copy.store)[0] == copy.release.id
    assert run.stage("publish") is None


def test_coverage_counts_distinct_recommended_items(copy: Published, tmp_path: Path) -> None:
    """The figure in the manifest is the share of the catalogue that stands in any list."""
    run = gate({"min_coverage": 0.0}, tmp_path / "second", copy)
    publish(run)
    opened = open_release(copy.store)
    distinct = len(
        set(
            pq.read_table(made.place(copy.store, release_key(opened.id, "recommendations")))[
                "item_id"
            ].to_pylist()
        )
    )
    assert opened.manifest.gates["structure"]["coverage"] == distinct / made.N_ITEMS


def test_a_user_with_an_empty_list_is_refused(tmp_path: Path) -> None:
    """Somebody who got nothing without having seen everything stops the release, whatever the stage's sums say."""
    run = made.scored_run(tmp_path)
    name = record_name(made.units_of(run)[0])
    run.put_json(name, run.get_json(name) | {"empty_users": 1})
    with pytest.raises(GateRefused, match="1 users have an empty list"):
        publish(run)
    assert published(run.store) == []
