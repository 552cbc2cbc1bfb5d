"""MovieLens 100K from the publisher's zip or from the wheel of recbole, as the same three tables.

The publisher's files are latin-1 without headers; recbole's are UTF-8 with typed headers, the title split
from its year and genres separated by spaces. Both come out sorted by id, with titles as "Toy Story (1995)"
and genres joined by "|" in the publisher's order. Checking the rows is the caller's (`datasets`). pip's words
about where it looked are not passed on: an index address may be private.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from nightrank.errors import DataError

ZIP_NAME = "ml-100k.zip"
URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
CONNECT_TIMEOUT_S = 10
PIP_TIMEOUT_S = 300
MAX_ZIP_BYTES = 64 * 2**20  # the zip has 5 MB; more is no such zip
WHEEL = "recbole==1.2.1 --hash=sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_IN_WHEEL = "recbole/dataset_example/ml-100k/ml-100k"
_GENRES = (  # the order of u.genre
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
)
GENRES = tuple(_GENRES.split())
_EVENTS = {
    "user_id": pa.int64(),
    "item_id": pa.int64(),
    "weight": pa.float32(),
    "timestamp": pa.int64(),
}


def from_folder(folder: Path) -> dict[str, pa.Table]:
    """From a zip that somebody has put into the folder."""
    path = folder / ZIP_NAME
    if not path.is_file():
        raise DataError(f"{path} is not there")
    return read_zip(path.read_bytes())


def from_publisher(folder: Path) -> dict[str, pa.Table]:
    """From the publisher's site."""
    del folder  # nothing of the download is kept
    with urllib.request.urlopen(URL, timeout=CONNECT_TIMEOUT_S) as response:
        return read_zip(response.read(MAX_ZIP_BYTES))


def from_wheel(folder: Path) -> dict[str, pa.Table]:
    """From a wheel that pip downloads from the configured package index; nothing is installed."""
    del folder
    with tempfile.TemporaryDirectory(prefix="nightrank-") as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(WHEEL + "\n", encoding="utf-8")
        options = "--no-deps --require-hashes --only-binary :all: --retries 2 --timeout 15 --quiet --no-input"
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *options.split()]
        done = subprocess.run(
            [*command, "--dest", scratch, "--requirement", str(pinned)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise DataError(f"pip download ended with code {done.returncode}: {pip_reason(done.stderr)}")
        return read_wheel(next(Path(scratch).glob("*.whl")))


def pip_reason(stderr: str) -> str:
    """pip's own error lines without addresses and host names."""
    lines = [line for line in stderr.splitlines() if "ERROR:" in line] or stderr.splitlines()[-1:]
    reason = re.sub(r"\w+://\S+", "(address)", " ".join(lines[:3]))
    return (
        re.sub(r"host='[^']*'|\b[\w-]+(\.[\w-]+)*\.[a-z]{2,}\b(?=[:/ ]|$)", "(host)", reason) or "no message"
    )


def read_zip(content: bytes) -> dict[str, pa.Table]:
    """The tables in the publisher's zip."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return _tables(
            _events(archive.read("ml-100k/u.data"), skip_rows=0),
            items=list(_publisher_items(archive.read("ml-100k/u.item").decode("latin-1"))),
            users=_rows(archive.read("ml-100k/u.user").decode("latin-1"), "|"),
        )


def read_wheel(path: Path) -> dict[str, pa.Table]:
    """The tables in recbole's wheel."""
    with zipfile.ZipFile(path) as archive:
        return _tables(
            _events(archive.read(f"{_IN_WHEEL}.inter"), skip_rows=1),
            items=list(_recbole_items(archive.read(f"{_IN_WHEEL}.item").decode("utf-8"))),
            users=_rows(archive.read(f"{_IN_WHEEL}.user").decode("utf-8"), "\t")[1:],
        )


def _rows(text: str, separator: str) -> list[list[str]]:
    return [line.split(separator) for line in text.split("\n") if line]


def _events(content: bytes, *, skip_rows: int) -> pa.Table:
    table = pacsv.read_csv(
        io.BytesIO(content),
        read_options=pacsv.ReadOptions(column_names=list(_EVENTS), skip_rows=skip_rows),
        parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pacsv.ConvertOptions(column_types=_EVENTS),
    )
    return table.sort_by([("user_id", "ascending"), ("item_id", "ascending")])


def _publisher_items(text: str) -> Iterator[tuple[int, str, str]]:
    for item_id, title, _released, _video, _url, *flags in _rows(text, "|"):
        genres = [genre for genre, flag in zip(GENRES, flags, strict=True) if flag.strip() == "1"]
        yield int(item_id), title.strip(), "|".join(genres)


def _recbole_items(text: str) -> Iterator[tuple[int, str, str]]:
    for item_id, title, year, words in _rows(text, "\t")[1:]:
        genres = sorted(words.split(), key=GENRES.index)
        full = "unknown" if year == "unkonwn" else f"{title.strip()} ({year})"  # their spelling; item 267
        yield int(item_id), full, "|".join(genres)


def _tables(
    events: pa.Table, *, items: Sequence[tuple[int, str, str]], users: Sequence[list[str]]
) -> dict[str, pa.Table]:
    ids, titles, genres = zip(*sorted(items), strict=True)
    people = sorted((int(user), int(age), gender, work) for user, age, gender, work, *_ in users)
    users_, ages, genders, works = zip(*people, strict=True)
    return {
        "events": events,
        "items": pa.table({"item_id": pa.array(ids, pa.int64()), "title": titles, "genres": genres}),
        "users": pa.table(
            {
                "user_id": pa.array(users_, pa.int64()),
                "age": pa.array(ages, pa.int32()),
                "gender": genders,
                "occupation": works,
            }
        ),
    }
