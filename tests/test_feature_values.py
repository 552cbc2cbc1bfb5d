"""A request's value of a feature is read as the cell of a table is, kind by kind and spelling by spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eventfiles import parquet
from nightrank.config.metadata import SideColumns
from nightrank.data.attributes import MISSING_TEXTS
from nightrank.data.feature_values import number_of, texts_of
from nightrank.data.features import Features, encoded, with_features
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, read_table

MISSING = ["", "  ", *MISSING_TEXTS, " None "]
# Kind of column, what its file is, its cells, and cells that a request may spell in the same way.
CSV = {
    "word": ["a", " b ", "F", "f", "007", "+7", "3.0", "True", *MISSING],
    "flag": ["True", " TRUE", "true", "FALSE", "False ", "false", *MISSING],
    "whole": ["24", " 24 ", "-3", "0", *MISSING],
    "written": ["24.0", "24", "2.4e1", "-3", "-3.", "7", *MISSING],
    "real": ["1.5", " 2.5", "-.5", "1e3", "12", "nan", "NAN", *MISSING],
}
TYPED = {
    "word": ["a", " b ", "true", "True", "12", None, *MISSING],
    "flag": [True, False, None],
    "whole": [24, -3, 0, None],
    "floats": [24.0, -3.0, None, float("nan")],
    "real": [1.5, -2.25, 1e30, None, float("nan")],
    "tags": [["a", " b", None], ["b", ""], [], None, ["None", "a", "a"]],
    "codes": [[1, 2], [2, None], [], None],
}


def features_of(file: Path, n: int) -> Features:
    """Of a table of n users who all have an event."""
    table = read_table([file], SideColumns("id", ("x",), separator="|"), what="users", kind="int64")
    found = Interactions.from_arrow(pa.table({"user_id": list(range(n)), "item_id": [7] * n}))
    sides = with_features(found, Metadata(users=table)).features
    assert sides is not None
    assert sides.users is not None
    return sides.users


def assert_same(features: Features, cells: list[Any]) -> None:
    """Each cell, asked for as it stands in the table, has the features of its row, and is not unknown."""
    rows = features.matrix.toarray()
    assert np.any(rows != 0)
    for row, cell in enumerate(cells):
        places, weights, unknown = encoded(features.columns, {"x": cell})
        asked = np.zeros(rows.shape[1])
        asked[places] = weights
        assert unknown == [], cell
        np.testing.assert_allclose(asked, rows[row], rtol=1e-6, err_msg=repr(cell))


@pytest.mark.parametrize("kind", CSV)
def test_a_cell_of_csv_and_the_same_text_in_a_request(tmp_path: Path, kind: str) -> None:
    """Protects clients that send on what their own export wrote."""
    cells = CSV[kind]
    file = tmp_path / "t.csv"
    file.write_text("id,x\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(cells)))
    assert_same(features_of(file, len(cells)), cells)


@pytest.mark.parametrize("kind", TYPED)
def test_a_typed_cell_and_the_same_value_in_a_request(tmp_path: Path, kind: str) -> None:
    """Protects clients that send values of JSON's own types."""
    cells = TYPED[kind]
    file = parquet(tmp_path / "t.parquet", id=list(range(len(cells))), x=cells)
    assert_same(features_of(file, len(cells)), cells)


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("flag", {"True": ["tRUE", True, [True], ["true"]], "false": [False, "FALSE"]}),
        ("whole", {"24": [24, 24.0, "24.0", "2.4e1", [24], ["24"]], "0": [0, -0.0, "0"]}),
        ("real", {"1.5": [1.5, [1.5], ["1.50"], [None, " 1.5 "]], "12": [12, "12.0"]}),
        ("word", {"007": [" 007", ["007"]], "+7": ["+7"], "3.0": ["3.0"]}),
    ],
)
def test_other_types_that_say_the_same(tmp_path: Path, kind: str, same: dict[str, list[Any]]) -> None:
    """JSON has types that CSV has not: a number for a text of digits, true for its text, a list of one."""
    cells = CSV[kind]
    file = tmp_path / "t.csv"
    file.write_text("id,x\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(cells)))
    columns = features_of(file, len(cells)).columns
    for cell, values in same.items():
        expected = [one.tolist() for one in encoded(columns, {"x": cell})[:2]]
        assert expected[0]
        for value in values:
            places, weights, unknown = encoded(columns, {"x": value})
            assert ([places.tolist(), weights.tolist()], unknown) == (expected, []), value


def test_what_is_no_number_and_no_category_stays_unknown(tmp_path: Path) -> None:
    """Reading kindly is not guessing: another case, a leading zero and infinity mean nothing here."""
    columns = {}
    for kind in ("word", "real", "whole"):
        file = tmp_path / f"{kind}.csv"
        file.write_text("id,x\n" + "".join(f"{row},{cell}\n" for row, cell in enumerate(CSV[kind])))
        columns[kind] = features_of(file, len(CSV[kind])).columns
    for value in ("A", "7", "TRUE", True, 3.0, 7):
        (unknown,) = encoded(columns["word"], {"x": value})[2]
        assert unknown == f"x={'true' if value is True else '3' if value == 3.0 else value}"
    for value in ("inf", "-Infinity", "1_000", "0x1", "१", "1,5", "1" * 500, True, [1, 2], float("inf")):
        assert encoded(columns["real"], {"x": value})[2] == ["x"]
    assert encoded(columns["whole"], {"x": "024"})[2] == ["x=024"]
    assert encoded(columns["whole"], {"x": 24.5})[2] == ["x=24.5"]


def test_floats_are_never_written_out() -> None:
    """A number of six letters must not come back as one of three hundred digits."""
    assert texts_of([1e300, 2.0**53, -3.0, 0.5]) == ["1e+300", "9007199254740992", "-3", "0.5"]
    assert number_of("1e400") is None
    assert number_of("1" * 309) == pytest.approx(1.1111e308, rel=1e-4)


def test_spaces_are_those_of_tables() -> None:
    """Python and Arrow agree on what a space around a text is, for every character there is."""
    letters = [chr(one) for one in range(0x10000) if not 0xD800 <= one < 0xE000]  # beyond are none
    trimmed = pc.utf8_trim_whitespace(pa.array([f"{one}a{one}" for one in letters]))
    differing = [one for one, text in zip(letters, trimmed.to_pylist(), strict=True) if one + "a" in text]
    assert differing == [one for one in letters if not one.isspace()]
