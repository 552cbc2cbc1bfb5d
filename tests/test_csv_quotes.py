"""CSV quotes: a quote that is never closed swallows rows, and no row goes without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventfiles import csv, read
from nightrank.data import csvlines
from nightrank.errors import DataError

PLAIN = "".join(f"{row},2,a\n" for row in range(30))
HEADER = "u,i,note\n"


def refusal(file: Path, **names: str) -> str:
    with pytest.raises(DataError) as refused:
        read(file, **names)
    assert str(file) in str(refused.value)
    return str(refused.value)


@pytest.fixture(params=[16, 64, 100, 4 << 20])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of text from a row or two to the whole file."""
    monkeypatch.setattr(csvlines, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
@pytest.mark.parametrize("behind", ["", "4,5,b\n", PLAIN, PLAIN + '4,5,a ""word""\n'])
def test_a_quote_that_is_never_closed_names_its_row(tmp_path: Path, name: str, behind: str) -> None:
    """Protects the rows behind a quote in a column that is not read: they were dropped without an error."""
    file = csv(tmp_path / name, f'{HEADER}1,1,5" pipe\n3,3,6" pipe\n{PLAIN}3,4,"open\n{behind}')
    message = refusal(file)
    assert "row 32 has" in message
    assert "a quote that is never closed" in message


@pytest.mark.parametrize("role", ["u", "i", "w", "t", "e"])
def test_two_of_them_are_found_in_any_column_that_is_read(tmp_path: Path, role: str) -> None:
    """Protects the rows between two quotes that are never closed, which to a parser are one value."""
    columns = dict.fromkeys("uiwte", "1")
    plain, broken = ",".join(columns.values()), ",".join((columns | {role: '"1'}).values())
    rows = [plain, broken, *[plain] * 5, broken, plain]
    file = csv(tmp_path / "e.csv", "\n".join(["u,i,w,t,e", *rows, ""]))
    message = refusal(file, weight="w", time="t", type="e")
    assert f"column '{role}' has a line break in row 1 (1 such rows)" in message


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    "notes",
    [
        ['"a\nb"', "c"],
        ['"a ""b""\n"', '""', '","'],
        ['5" pipe', "c"],  # an odd number, and no field begins with one
        ['a""', '"b"" "', '"""c"', '5"'],
        ['"a"b"', '"x,"'],
        ['""""', '""""""', '"'],
    ],
)
def test_legal_quotes_cost_no_row(tmp_path: Path, notes: list[str]) -> None:
    """Protects line breaks and inch marks in columns that are not read, wherever a block ends."""
    is_open = notes[-1] == '"'
    rows = [f"{row},1,{note}\n" for row, note in enumerate(notes)]
    for end in ("".join(rows), "".join(rows).removesuffix("\n")):
        file = csv(tmp_path / "e.csv", f"{HEADER}{end}")
        if is_open:
            assert f"row {len(rows) - 1} has a quote that is never closed" in refusal(file)
        else:
            assert read(file)["user"].to_pylist() == list(range(len(rows)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}{PLAIN}1,2,{'x' * 300}\n{PLAIN}", "row 30 has more than 64 bytes"),
        (f"u,i,{'x' * 300}\n{PLAIN}", "the header or the row behind it has more than 64 bytes"),
        (
            f'u,"i\n{PLAIN}',
            "the header or the row behind it has more than 64 bytes, perhaps behind a quote that",
        ),
        ("\n\n", "cannot be read"),
    ],
)
def test_a_row_beyond_a_block_is_refused_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """Protects users from a message about block sizes that they cannot set."""
    monkeypatch.setattr(csvlines, "BLOCK_BYTES", 64)
    assert message in refusal(csv(tmp_path / "e.csv", text))


def test_the_header_takes_as_long_a_line_as_the_rows(tmp_path: Path) -> None:
    """Protects wide files: names and rows are read with one limit, 4 MiB, beyond pyarrow's own of 1 MiB."""
    names = ",".join(f"feature_{n:06}" for n in range(100_000))
    file = csv(tmp_path / "e.csv", f"u,i,{names}\n1,2{',' * 100_000}\n")
    found: dict[str, Any] = read(file).to_pydict()
    assert found == {"user": [1], "item": [2], "weight": [1.0]}
