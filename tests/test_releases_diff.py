"""`nightrank releases diff`: every figure equals a plain count over the Parquet of the two releases."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import made
from harm import rewrite
from made import Published
from nightrank.cli.app import app
from nightrank.data.ids import ids_from_arrays
from nightrank.errors import ReleaseError
from nightrank.release import diff as diff_module
from nightrank.release import meeting, open_release
from nightrank.release.diff import Difference, diff
from nightrank.release.reader import Release
from pages import RELEASE, blocks, section

OLD = {"k": 20, "buckets": 4, "similar_items_k": 1}


@pytest.fixture(scope="module", params=["int64", "string"])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    kind = request.param
    events = made.make_events(users=kind, items=kind)
    return made.published_release(tmp_path_factory.mktemp(kind), events=events, items=[], score=OLD)


def later(old: Published, **score: Any) -> Release:
    """The release of the next night, in the same store."""
    kind = old.release.model.card.user_id_type
    published = made.published_release(
        Path(old.store.url).parent, events=made.make_later_events(kind=kind), items=[], score=OLD | score
    )
    return published.release


def lists_of(release: Release) -> dict[Any, list[Any]]:
    """Every user of a release and their list, from the Parquet; empty for users without rows there."""
    lists: dict[Any, list[Any]] = {user: [] for user in release.model.user_ids.array.to_pylist()}
    folder = release.files.path("arrays").parent / "recommendations"
    for row in pq.read_table(folder).to_pylist():
        lists[row["user_id"]].append(row["item_id"])
    return lists


def counted(a: Release, b: Release) -> dict[str, Any]:
    """What `diff` has to say, by loops over users."""
    before, after = lists_of(a), lists_of(b)
    met = before.keys() & after.keys()
    shortest = min(a.manifest.k, b.manifest.k)
    pairs = [(before[user][:shortest], after[user][:shortest]) for user in met]
    items_a, items_b = ({item for one in lists.values() for item in one} for lists in (before, after))

    def overlap(k: int) -> float:
        each = []
        for left, right in pairs:
            longer = max(len(left[:k]), len(right[:k]))
            each.append(len(set(left[:k]) & set(right[:k])) / longer if longer else 1.0)
        return float(np.mean(each))

    return {
        "users": {"a_only": len(before) - len(met), "b_only": len(after) - len(met), "both": len(met)},
        "lists": {f"overlap@{k}": pytest.approx(overlap(k)) for k in sorted({min(10, shortest), shortest})}
        | {
            "changed": pytest.approx(np.mean([left != right for left, right in pairs])),
            "changed_items": pytest.approx(np.mean([set(left) != set(right) for left, right in pairs])),
        },
        "items": {
            "new": len(items_b - items_a),
            "gone": len(items_a - items_b),
            "kept": len(items_a & items_b),
        },
        "recommended": [len(items_a), len(items_b)],
    }


def figures(found: Difference) -> dict[str, Any]:
    return {
        "users": found.users,
        "lists": found.lists,
        "items": found.items,
        "recommended": [found.a.recommended, found.b.recommended],
    }


@pytest.mark.parametrize(
    "score",
    [
        {"buckets": 4},
        {"buckets": 1},
        {"buckets": 8},
        {"buckets": 6},
        {"buckets": 3},
        {"k": 12},
        {"k": 4},
        {"k": 500},
    ],
    ids=str,
)
@pytest.mark.parametrize("cells", [40, 400, 4_000_000])
def test_every_figure_is_that_of_a_plain_count(
    old: Published, score: dict[str, int], cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the buckets, the lengths of lists and the size of a batch; users, items and lists come and go."""
    monkeypatch.setattr(diff_module, "BATCH_CELLS", cells)
    new = later(old, **score)
    expected = counted(old.release, new)
    assert figures(diff(old.release, new)) == expected
    assert figures(diff(new, old.release)) == counted(new, old.release)
    assert all(expected["users"].values())
    assert all(expected["items"][name] for name in ("new", "gone", "kept"))
    before, after = lists_of(old.release), lists_of(new)
    assert [user for user, one in before.items() if not one and after.get(user)]  # empty before, not after


def test_a_release_differs_in_nothing_from_itself(old: Published) -> None:
    """No change is no change: all lists overlap in full, the empty list of one user too."""
    found = diff(old.release, old.release)
    assert found.lists == {"overlap@10": 1.0, "overlap@20": 1.0, "changed": 0.0, "changed_items": 0.0}
    assert found.users == {"a_only": 0, "b_only": 0, "both": made.N_USERS}
    assert (found.items["new"], found.items["gone"]) == (0, 0)
    assert [] in lists_of(old.release).values()


def test_the_sides_say_what_made_them_and_their_coverage_is_the_manifests(old: Published) -> None:
    """Two recipes are compared knowingly; coverage is what the structure gate measured."""
    new = later(old, k=12)
    for side, release in zip(("a", "b"), (old.release, new), strict=True):
        said, manifest = diff(old.release, new).as_dict()[side], release.manifest
        assert said == {
            "release": manifest.release,
            "family": "als",
            "params": manifest.params,
            "metrics": manifest.metrics,
            "k": manifest.k,
            "users": manifest.counts["users"],
            "items": manifest.counts["items"],
            "recommended": round(said["coverage"] * manifest.counts["items"]),
            "coverage": manifest.gates["structure"]["coverage"],
        }


def test_the_same_items_in_another_order_are_a_change_of_order_only(tmp_path: Path) -> None:
    """Lists of all items left always hold the same; another recipe only orders them otherwise."""
    sides = [
        made.published_release(tmp_path, score=OLD | {"k": 500}, train={"model": model, "params": {}}).release
        for model in ("als", "popularity")
    ]
    found = diff(*sides)
    assert found.lists["changed_items"] == 0
    assert found.lists["overlap@500"] == 1
    assert found.lists["overlap@10"] < 0.9
    assert found.lists["changed"] > 0.9


def test_nobody_in_both_leaves_no_mean(tmp_path: Path) -> None:
    """Shares of no users are null, not 0 or a division by it; items are compared all the same."""
    events = made.make_events()
    first = made.published_release(tmp_path / "a", events=events, items=[])
    others = events.set_column(
        0, "user_id", pa.array([10**6 + row["user_id"] % 97 for row in events.to_pylist()])
    )
    second = made.published_release(tmp_path / "b", events=others, items=[])
    found = diff(first.release, second.release)
    assert found.users["both"] == 0
    assert set(found.lists.values()) == {None}
    assert found.items["kept"] > 10


def test_the_page_shows_what_is_printed_and_names_every_key(old: Published) -> None:
    """docs/release.md: its example has the words of real lines, and no key of the JSON is unexplained."""
    new = later(old, k=12)
    page = section(RELEASE, "What a night changed")
    printed = CliRunner().invoke(app, ["releases", "diff", old.release.id, new.id, "--store", old.store.url])
    words = [
        re.sub(r"overlap@\d+|[\w.@=-]*\d[\w.@=-]*", "0", text).splitlines()
        for text in (printed.stdout, blocks(page, "text")[0])
    ]
    assert words[0] == words[1]
    found = diff(old.release, new).as_dict()
    keys = {
        *found,
        *found["a"],
        *found["users"],
        *found["items"],
        *(f"lists.{name}" for name in found["lists"]),
    }
    assert keys - set(re.findall(r"`([^`]+)`", page.split("```")[-1])) == {"lists.overlap@12"}


@pytest.mark.parametrize("what", ["user", "item"])
def test_releases_with_ids_of_two_types_are_refused(tmp_path: Path, what: str) -> None:
    """42 and "42" are nobody in common: that is said, and not reported as everybody gone."""
    sides = [
        made.published_release(
            tmp_path / kind, events=made.make_events(**{f"{what}s": kind}), items=[]
        ).release
        for kind in ("int64", "string")
    ]
    with pytest.raises(ReleaseError, match=f"{what} ids of type int64, .* of type string"):
        diff(*sides)


def test_a_batch_never_holds_more_users_than_it_may(old: Published) -> None:
    """Memory is bounded also where buckets are few or have no common divisor, and nobody is in two batches."""
    new = later(old, buckets=3)
    for most in (2, 7, 30, 1_000):
        batches = list(meeting.meetings(old.release, new, most=most))
        assert max(sum(map(len, batch)) for batch in batches) <= max(most, 4 + 3)
        for side, release in enumerate((old.release, new)):
            slices = [one for batch in batches for one in batch if one.side == side]
            found = [user for one in slices for user in one.ids.to_pylist()]
            assert sorted(found) == sorted(release.model.user_ids.array.to_pylist())
        ids = [{user for one in batch for user in one.ids.to_pylist()} for batch in batches]
        assert sum(map(len, ids)) == len(set().union(*ids))


def test_buckets_that_were_passed_are_not_kept_open(old: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison holds the maps and descriptors of one group of buckets, however many there are."""
    new = open_release(old.store, old.release.id)
    mapped, real = [], diff_module._Comparison.add

    def add(self: Any, batch: Any) -> None:
        real(self, batch)
        maps = Path("/proc/self/maps").read_text()
        mapped.append(len(re.findall(rf"{new.id}/arrays/recommendations/(?:items|scores)-", maps)))

    monkeypatch.setattr(diff_module._Comparison, "add", add)
    diff(new, new)
    assert len(mapped) == 4
    assert max(mapped) <= min(mapped) <= 2


def test_a_width_that_is_not_the_lists_is_refused(old: Published, tmp_path: Path) -> None:
    """A k that the arrays do not have, of whatever size, ends with found and expected before memory is asked for."""
    for k in (1, 19, 21, 10**9):
        broken = made.copied(old, tmp_path / str(k))
        rewrite(broken, lambda manifest, k=k: manifest.update(k=k))  # type: ignore[misc]
        release = open_release(broken.store, broken.release.id)
        for sides in ((release, old.release), (old.release, release)):
            with pytest.raises(ReleaseError, match=rf"expected int32 of shape \(\d+, {k}\)"):
                diff(*sides)


def test_a_list_with_a_row_that_is_no_items_is_refused(old: Published, tmp_path: Path) -> None:
    """A damaged array is named, and no figure is made of it."""
    broken = made.copied(old, tmp_path)
    for path in broken.folder.glob("arrays/recommendations/items-*.npy"):
        np.save(path, np.where(np.load(path) == 3, 40, np.load(path)))
    with pytest.raises(ReleaseError, match=f"release {broken.release.id} is damaged.*releases verify"):
        diff(old.release, broken.release)


def test_users_out_of_order_are_refused(old: Published, tmp_path: Path) -> None:
    """Ids that are not sorted within their bucket, as only damage leaves them, end in an error and not in a loop."""
    broken = made.copied(old, tmp_path).release
    ids = broken.model.user_ids
    reversed_ids = ids.reordered(np.arange(len(ids))[::-1], offsets=broken.model.bucket_offsets)
    reordered = ids_from_arrays(list(reversed_ids.arrays("x").values()), offsets=broken.model.bucket_offsets)
    broken.model.__dict__["user_ids"] = reordered
    with pytest.raises(ReleaseError, match="not in order"):
        list(meeting.meetings(broken, broken, most=2))


def test_the_command_prints_what_the_function_found(old: Published) -> None:
    """In words and as JSON: the same figures, releases named in the order they were given."""
    new = later(old, k=12)
    call = ["releases", "diff", old.release.id, new.id, "--store", old.store.url]
    expected = diff(old.release, new)
    printed = CliRunner().invoke(app, [*call, "--json"])
    assert json.loads(printed.stdout) == expected.as_dict()
    lines = CliRunner().invoke(app, call).stdout.splitlines()
    assert lines[0].startswith(f"A  {old.release.id}  als  factors=8 reg=0.01 alpha=1.0 epochs=3  ndcg@10 ")
    assert lines[1].startswith(f"B  {new.id}  als  ")
    users = expected.users
    assert (
        lines[2]
        == f"users     {users['both']} in both, {users['a_only']} only in A, {users['b_only']} only in B"
    )
    assert f"overlap@12 {expected.lists['overlap@12']:.4f}" in lines[3]
    assert f"{expected.items['new']} only in B, {expected.items['gone']} only in A" in lines[4]
    assert f"B {expected.b.coverage:.4f} of {expected.b.items} items" in lines[5]
