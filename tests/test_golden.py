"""Golden releases: an earlier nightrank's opens, verifies and answers as it did, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import golden_releases
from golden_releases import answers_of, goldens, ids_of, names_of, ranked_now, version_of
from harm import outcome
from nightrank.release import open_release, open_store
from nightrank.release.manifest import FORMAT_VERSION, READABLE
from nightrank.release.publish import verify

READ = [golden for golden in goldens() if version_of(golden) in READABLE]


def name_of(golden: Path) -> str:
    return f"{golden.parent.name}-{golden.name}"


@pytest.fixture(params=READ, ids=name_of)
def golden(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_every_format_version_has_its_goldens() -> None:
    """Whoever raises FORMAT_VERSION has to add goldens of the new format, and keeps the old ones."""
    found = {(version_of(golden), golden.name) for golden in goldens()}
    assert found == {
        (version, name) for version in range(1, FORMAT_VERSION + 1) for name in names_of(version)
    }


def test_a_golden_opens_and_answers_as_it_did(golden: Path) -> None:
    """Recommendations, history, similar, popular, titles and rows are those that were written beside it."""
    release = open_release(open_store(str(golden / "store")))
    assert answers_of(release) == json.loads((golden / "answers.json").read_text())


def test_a_golden_verifies(golden: Path) -> None:
    """No checksum, no list of files and no rule of the manifest has changed its meaning."""
    store = open_store(str(golden / "store"))
    release = open_release(store)
    assert verify(store, release.id) == release.manifest
    assert release.manifest.format_version == version_of(golden)


def test_the_engine_ranks_the_arrays_of_a_golden_as_it_did(golden: Path) -> None:
    """What the engine prepared in that version means the same to today's: live answers equal the stored ones."""
    release = open_release(open_store(str(golden / "store")))
    for row, (items, scores) in enumerate(ranked_now(release)):
        stored_items, stored_scores = release.recommendations(row)
        np.testing.assert_array_equal(items, stored_items)
        np.testing.assert_array_equal(scores, stored_scores)


def test_the_parquet_of_a_golden_says_the_same(golden: Path) -> None:
    """The warehouse's files hold the lists of answers.json under the column names that others script against."""
    release = open_release(open_store(str(golden / "store")))
    table = pq.read_table(release.files.path("arrays").parent / "recommendations")
    assert table.column_names == ["user_id", "rank", "item_id", "score"]
    lists: dict[object, list[list[object]]] = {user: [] for user in ids_of(release.model.user_ids)}
    for row in table.sort_by([("user_id", "ascending"), ("rank", "ascending")]).to_pylist():
        lists[row["user_id"]].append([row["item_id"], row["score"]])
    answers = json.loads((golden / "answers.json").read_text())
    assert lists == {user["user_id"]: user["recommendations"] for user in answers["users"]}


@pytest.mark.parametrize("any_version", goldens(), ids=name_of)
def test_a_golden_opens_or_is_refused_by_name(any_version: Path) -> None:
    """A format that is no longer read says its version and what to do; one that is read is never refused."""
    store = open_store(str(any_version / "store"))
    message = outcome(lambda: open_release(store))
    if version_of(any_version) in READABLE:
        assert message is None
    else:
        assert f"has format version {version_of(any_version)}; this nightrank reads" in str(message)


def test_goldens_are_made_by_a_function_that_overwrites_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`golden_releases.make` makes what stands in the repository, and refuses where a golden is there."""
    monkeypatch.setattr(golden_releases, "FOLDER", tmp_path)
    golden_releases.make()
    assert [name_of(path) for path in goldens()] == [
        f"v{FORMAT_VERSION}-{name}" for name in names_of(FORMAT_VERSION)
    ]
    for path in goldens():
        release = open_release(open_store(str(path / "store")))
        assert answers_of(release) == json.loads((path / "answers.json").read_text())
    with pytest.raises(FileExistsError):
        golden_releases.make()
