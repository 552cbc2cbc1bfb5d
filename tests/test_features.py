"""Interactions with features: against a plain loop, what is learned from whom, and the catalogue that grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import parquet
from nightrank.config.metadata import SideColumns
from nightrank.data.attribute_types import MOST_WHOLE
from nightrank.data.attributes import MISSING_TEXTS
from nightrank.data.features import MOST_DEVIATIONS, FeatureColumn, Features, encoded, with_features
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, MetadataTable, read_table

NAMES = ("word", "tags", "whole", "real", "flag", "code", "far")
NAMES_AND_ID = ("id", *NAMES)


def interactions(users: list[Any], items: list[Any]) -> Interactions:
    return Interactions.from_arrow(pa.table({"user_id": users, "item_id": items}))


def table(tmp_path: Path, *, kind: str = "int64", name: str = "t", **columns: Any) -> MetadataTable:
    names = tuple(column for column in columns if column != "id")
    file = parquet(tmp_path / f"{name}.parquet", **columns)
    return read_table([file], SideColumns("id", names), what="users", kind=kind)


def random_rows(rng: np.random.Generator, ids: list[Any]) -> dict[str, Any]:
    """A table of every kind of column, with gaps, in an order of its own."""

    def gaps(values: list[Any]) -> list[Any]:
        return [None if rng.random() < 0.2 else value for value in values]

    n = len(ids)
    tags = [[str(word) for word in rng.choice(["p", "q", "r", "s"], rng.integers(0, 5))] for _ in range(n)]
    return {
        "id": [ids[place] for place in rng.permutation(n)],
        "word": pa.array(gaps([f"w{word}" for word in rng.integers(0, 9, n).tolist()]), pa.string()),
        "tags": pa.array(gaps(tags), pa.list_(pa.string())),
        "whole": pa.array(gaps(rng.integers(0, 1_000, n).tolist()), pa.int64()),
        "real": pa.array(gaps(rng.normal(3, 2, n).tolist()), pa.float64()),
        "flag": pa.array(gaps((rng.random(n) < 0.5).tolist()), pa.bool_()),
        "code": pa.array(gaps(rng.integers(-6, 7, n).tolist()), pa.float64()),
        "far": pa.array(gaps((rng.standard_cauchy(n) * 10).tolist()), pa.float64()),
    }


def plain_loop(rows: dict[Any, dict[str, Any]], ids: list[Any], learn: set[Any]) -> Features:
    """The rules, a row and a value at a time: what `with_features` must come to."""
    columns, dense = [], []
    for name in NAMES:
        given = {one: rows[one][name] for one in ids if one in rows and rows[one][name] is not None}
        learned = [given[one] for one in ids if one in learn and one in given]
        every = {row[name] for row in rows.values()} - {None} if name == "whole" else set()
        numeric = name in ("real", "far") or len(every) > MOST_WHOLE
        if numeric and len(set(learned)) > 1:
            mean = sum(learned) / len(learned)
            scale = (sum((one - mean) ** 2 for one in learned) / len(learned)) ** 0.5
            columns.append(FeatureColumn(name, None, mean, scale))
            far = MOST_DEVIATIONS
            dense.append([[min(max((given.get(one, mean) - mean) / scale, -far), far)] for one in ids])
            continue
        words = {
            one: list(dict.fromkeys(map(text, value if isinstance(value, list) else [value])))
            for one, value in given.items()
        }
        values = sorted({word for one, found in words.items() if one in learn for word in found})
        columns.append(FeatureColumn(name, tuple(values)))
        known = {one: [word for word in found if word in values] for one, found in words.items()}
        dense.append(
            [[1 / len(known[one]) if word in known.get(one, []) else 0.0 for word in values] for one in ids]
        )
    return Features(np.hstack([np.array(block).reshape(len(ids), -1) for block in dense]), tuple(columns))


def text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")


def assert_equal(found: Features, expected: Features) -> None:
    assert [one.name for one in found.columns] == [one.name for one in expected.columns]
    for one, other in zip(found.columns, expected.columns, strict=True):
        assert one.values == other.values
        assert (one.mean, one.scale) == pytest.approx((other.mean, other.scale))
    assert found.matrix.dtype == np.float32
    assert found.matrix.has_canonical_format
    np.testing.assert_allclose(found.matrix.toarray(), expected.matrix, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("key", [int, "id-{:03}".format], ids=["int64", "string"])
def test_it_equals_a_plain_loop(tmp_path: Path, seed: int, key: Callable[[int], Any]) -> None:
    """Protects every rule at once: both sides, gaps, repeats, cold items, users without a row or without events."""
    rng = np.random.default_rng(seed)
    n = 40 if seed % 2 else 400  # few whole numbers, then many
    users = [key(one) for one in rng.integers(0, n, 5 * n).tolist()]
    items = [key(one) for one in rng.integers(0, n, 5 * n).tolist()]
    found = interactions(users, items)
    user_rows = random_rows(rng, [key(one) for one in range(n // 10, n + 9)])
    item_rows = random_rows(rng, [key(one) for one in range(n // 10, 2 * n)])
    kind = found.user_ids.kind
    metadata = Metadata(
        users=table(tmp_path, kind=kind, name="u", **user_rows),
        items=table(tmp_path, kind=kind, name="i", **item_rows),
    )
    attached = with_features(found, metadata)
    catalogue = attached.item_ids.array.to_pylist()
    assert catalogue == sorted(set(items) | set(item_rows["id"]))
    assert attached.user_ids.array.to_pylist() == sorted(set(users))
    cells = {
        (attached.user_ids[int(u)], attached.item_ids[int(i)])
        for u, i in zip(*attached.user_items.nonzero(), strict=True)
    }
    assert cells == set(zip(users, items, strict=True))
    assert attached.user_items.sum() == found.user_items.sum()
    assert attached.user_items.has_sorted_indices
    sides = attached.features
    assert sides is not None
    for side, rows, ids, learn in (
        (sides.users, user_rows, sorted(set(users)), set(users)),
        (sides.items, item_rows, catalogue, set(items)),
    ):
        assert side is not None
        by_id = {one["id"]: one for one in pa.table(rows).to_pylist()}
        assert_equal(side, plain_loop(by_id, ids, learn))
        for row in rng.choice(len(ids), 20):  # a request that says the same gets the same
            given = by_id.get(ids[row], {})
            places, weights, _ = encoded(side.columns, {name: given.get(name) for name in NAMES})
            dense = np.zeros(side.matrix.shape[1])
            dense[places] = weights
            np.testing.assert_allclose(side.matrix[[row]].toarray()[0], dense, atol=1e-5)


def test_nothing_is_learned_from_who_has_no_interaction(tmp_path: Path) -> None:
    """Protects held-out and erased people: neither their words nor their numbers leave a trace."""
    found = interactions([1, 2, 2], [7, 7, 8])
    alone = table(tmp_path, id=[1, 2], w=["a", "b"], x=[1.5, 3.5])
    more = table(tmp_path, id=[2, 9, 1, 5], w=["b", "secret", "a", "a"], x=[3.5, 1e9, 1.5, -7.5])
    one, other = (with_features(found, Metadata(users=rows)).features for rows in (alone, more))
    assert one is not None
    assert other is not None
    assert one.users is not None
    assert other.users is not None
    assert one.users.columns == other.users.columns
    assert one.users.columns[1] == FeatureColumn("x", None, 2.5, 1.0)
    assert (one.users.matrix != other.users.matrix).nnz == 0
    assert one.items is None


def test_what_only_cold_items_have_is_no_feature(tmp_path: Path) -> None:
    """An item without events gets what is known of it; its new category shares nothing of the weight."""
    found = interactions([1, 2], [7, 8])
    rows = table(tmp_path, id=[9, 7, 8], w=["new|a", "a", "b"], x=[5.5, 1.5, 3.5], y=[1.5, None, None])
    attached = with_features(found, Metadata(items=rows))
    assert attached.item_ids.array.to_pylist() == [7, 8, 9]
    assert attached.item_counts.tolist() == [1, 1, 0]
    assert attached.features is not None
    items = attached.features.items
    assert items is not None
    assert items.columns == (
        FeatureColumn("w", ("a", "b")),
        FeatureColumn("x", None, 2.5, 1.0),
        FeatureColumn("y", ()),
    )
    assert items.matrix.toarray().tolist() == [[1, 0, -1], [0, 1, 1], [1, 0, 3]]


def test_without_features_of_items_the_catalogue_stays(tmp_path: Path) -> None:
    """Only what is known of an item makes it rankable; and nothing else of the interactions changes."""
    found = interactions([1, 2], [7, 8])
    attached = with_features(found, Metadata(users=table(tmp_path, id=[1], w=["a"])))
    assert attached.item_ids is found.item_ids
    assert attached.user_items is found.user_items
    assert with_features(found, Metadata()).features is not None
    assert attached.subset(np.array([True, False])).features is None


def test_a_column_is_of_one_kind_in_every_fit(tmp_path: Path) -> None:
    """Validation, test and final fit see other rows: how many whole numbers there are is asked of the table."""
    n = MOST_WHOLE + 1
    for n_rows, is_number in ((n, True), (MOST_WHOLE, False)):
        rows = Metadata(users=table(tmp_path, id=list(range(n_rows)), x=list(range(n_rows))))
        for seen in (2, MOST_WHOLE, n):
            sides = with_features(interactions(list(range(seen)), [0] * seen), rows).features
            assert sides is not None
            assert sides.users is not None
            (column,) = sides.users.columns
            assert (column.values is None) == is_number
            assert is_number or column.n_features == min(seen, n_rows)


def test_ids_in_64_bits_stay_apart(tmp_path: Path) -> None:
    """A code that a float cannot hold is still the category that a request names."""
    codes = [2**53, 2**53 + 1]
    sides = with_features(
        interactions([1, 2], [7, 7]), Metadata(users=table(tmp_path, id=[1, 2], x=codes))
    ).features
    assert sides is not None
    assert sides.users is not None
    for row, code in enumerate(codes):
        places, _, unknown = encoded(sides.users.columns, {"x": code})
        assert (places.tolist(), unknown) == (sides.users.matrix[[row]].indices.tolist(), [])


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [1e-200, 3e-200, 2e-200], [0.1, None, None]])
def test_of_one_value_nothing_is_learned(tmp_path: Path, values: list[float | None]) -> None:
    """Nor of several that floats cannot tell apart: what another number means is not known, in a row or a request."""
    rows = table(tmp_path, id=[7, 8, 9, 10], x=[*values, 99.5])
    sides = with_features(interactions([1, 2, 3], [7, 8, 9]), Metadata(items=rows)).features
    assert sides is not None
    assert sides.items is not None
    assert sides.items.columns == (FeatureColumn("x", ()),)
    assert sides.items.matrix.shape == (4, 0)
    places, _, unknown = encoded(sides.items.columns, {"x": 99.5})
    assert (places.tolist(), unknown) == ([], ["x=99.5"])


@pytest.mark.parametrize(
    ("learned", "cold", "found"),
    [
        ([0.5, 1.5], [999999.0, -999999.0, 6.0, -4.0, 3.25], [5, -5, 5, -5, 4.5]),
        ([0.0, 1e-30], [3e38, -3e38, 1e37], [5, -5, 5]),
        ([0.0, 4e-150], [3e38, -3e38], [5, -5]),
        ([-3e38, 3e38], [3e38, -3e38, 0.0], [1, -1, 0]),
        ([0.5] * 30 + [1e6 + 0.5], [0.5], [-(30**-0.5)]),
    ],
)
def test_a_number_far_off_is_cut(
    tmp_path: Path, learned: list[float], cold: list[float], found: list[float]
) -> None:
    """Of a row without events and in a request alike, and in a training row: a wrong number must not outweigh all."""
    n = len(learned)
    rows = table(tmp_path, id=list(range(n + len(cold))), x=[*learned, *cold])
    sides = with_features(interactions([1] * n, list(range(n))), Metadata(items=rows)).features
    assert sides is not None
    assert sides.items is not None
    numbers = sides.items.matrix.toarray()[:, 0]
    np.testing.assert_allclose(numbers[n:], found, rtol=1e-6)
    assert np.abs(numbers).max() <= MOST_DEVIATIONS
    assert numbers[n - 1] == pytest.approx(MOST_DEVIATIONS if n > 2 else 1.0)
    for number, expected in zip(cold, found, strict=True):
        places, weights, unknown = encoded(sides.items.columns, {"x": number})
        assert (places.tolist(), unknown) == ([0], [])
        assert weights[0] == pytest.approx(expected)


@pytest.mark.parametrize("number", [1e308, -1e308, 10**300])
def test_a_number_far_off_in_a_request_is_cut(number: float) -> None:
    """Whatever JSON can hold, with the smallest scale that there can be."""
    column = FeatureColumn("x", None, -1.0, 5e-324)
    _, weights, _ = encoded([column], {"x": number})
    assert weights.tolist() == [np.copysign(MOST_DEVIATIONS, number)]


def test_what_is_missing_in_a_table_is_so_in_a_request() -> None:
    """A client that sends on what its own export wrote gets what the table would have got: nothing unknown."""
    columns = [FeatureColumn("word", ("a", "b")), FeatureColumn("x", None, 1.0, 2.0)]
    for one in (*MISSING_TEXTS, "", "  ", " None ", None, float("nan"), [], ["nan", ""]):
        places, _, unknown = encoded(columns, {"word": one, "x": one})
        assert (places.tolist(), unknown) == ([], [])
    places, weights, unknown = encoded(columns, {"word": [" a ", "null", "none"], "x": "3"})
    assert (places.tolist(), weights.tolist(), unknown) == ([0, 2], [1.0, 1.0], ["word=none"])


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    """The same tables in another order give the same bits, whoever exported them."""
    rng = np.random.default_rng(3)
    found = interactions(rng.integers(0, 50, 300).tolist(), rng.integers(0, 30, 300).tolist())
    rows = pa.table(random_rows(rng, list(range(60))))
    shuffled = rows.take(pa.array(rng.permutation(60)))
    one, other = (
        with_features(
            found, Metadata(items=table(tmp_path, **dict(zip(NAMES_AND_ID, each.columns, strict=True))))
        )
        for each in (rows, shuffled)
    )
    assert one.features is not None
    assert other.features is not None
    assert one.features.items is not None
    assert other.features.items is not None
    assert one.features.items.columns == other.features.items.columns
    for name in ("data", "indices", "indptr"):
        first, second = (getattr(each.features.items.matrix, name) for each in (one, other))  # type: ignore[union-attr]
        assert np.array_equal(first, second)
