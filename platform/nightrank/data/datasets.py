"""Known data sets, fetched where missing: MovieLens 100K as events, items and users in Parquet.

Each source is a function that returns the same three tables; they are tried in order until one gives rows
with the pinned digests. A folder counts as complete only with a marker that is written last and whose
checksums hold. Refused: rows with other digests, and to replace a readable Parquet file of somebody else's.
The licence of MovieLens (GroupLens, University of Minnesota) forbids redistribution: it is downloaded where
it is needed and never shipped.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import subprocess
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.data import movielens
from nightrank.errors import DataError

log = logging.getLogger("nightrank.data")

Tables = Mapping[str, pa.Table]  # "events", "items", "users"
Source = Callable[[Path], Tables]  # given the folder the data set is kept in

# What each digest covers. Rebuilt from the wheel, u.data and u.user have the sha256 of the publisher's files.
# Titles stay outside: the wheel keeps title and year apart (and spells item 267 "unkonwn"), so that equality
# with u.item was seen in samples but could not be proven.
_COVERED = {
    "events": ("user_id", "item_id", "weight", "timestamp"),
    "items": ("item_id", "genres"),
    "users": ("user_id", "age", "gender", "occupation"),
}
_FAILURES = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,  # an encrypted zip
    zipfile.BadZipFile,
    zlib.error,
    http.client.HTTPException,
    subprocess.SubprocessError,
    DataError,
)


class DatasetFiles(NamedTuple):
    """Where the three Parquet files of a data set are."""

    events: Path
    items: Path
    users: Path


class Dataset(NamedTuple):
    """A known data set: its sources (name for messages, function) in order, and the digests of its rows."""

    sources: tuple[tuple[str, Source], ...]
    digests: Mapping[str, str]
    by_hand: str


MOVIELENS_100K = Dataset(
    sources=(
        (f"{movielens.ZIP_NAME} in the folder", movielens.from_folder),
        ("the publisher", movielens.from_publisher),
        ("the wheel of recbole, by pip", movielens.from_wheel),
    ),
    digests={
        "events": "903931cb04450f9922b9aaf764ea230293f15695a5ecb2169b15213fcf7af6f8",
        "items": "7dbfb81dabe0e67174a91239069c72291bd6c84d4b1894d7a0a8ff4b988d6318",
        "users": "ba84b3d211f23ea4239a847e9db41f4af0f06f992342c7f40fc67a20d00c6ee5",
    },
    by_hand=f"download {movielens.URL} where the network allows it and put it into the folder",
)
DATASETS: Mapping[str, Dataset] = {"movielens-100k": MOVIELENS_100K}


def fetch(name: str, folder: Path, *, datasets: Mapping[str, Dataset] = DATASETS) -> DatasetFiles:
    """The files of a known data set in `folder`, fetched unless they are there and intact.

    events.parquet: user_id int64, item_id int64, weight float32, timestamp int64 (seconds UTC); by ids.
    items.parquet: item_id int64, title string, genres string (joined by "|"); by item.
    users.parquet: user_id int64, age int32, gender string, occupation string; by user. No nulls anywhere.
    Raises DataError for an unknown name, where the folder cannot be written or a Parquet file of something
    else is in the way, and where every source failed.
    """
    if name not in datasets:
        raise DataError(f"there is no data set '{name}'; known: {', '.join(map(repr, datasets))}")
    dataset = datasets[name]
    files = DatasetFiles(*(folder / f"{table}.parquet" for table in DatasetFiles._fields))
    marker = folder / f".{name}.json"
    if _is_complete(files, marker=marker, digests=dataset.digests):
        log.info("%s: complete in %s, nothing to download", name, folder)
        return files
    if not marker.exists():
        _refuse_others(files, name=name, digests=dataset.digests)
    source, tables = _first_good(name, folder, dataset=dataset)
    _keep(tables, files=files, marker=marker, record={"source": source, "rows": dict(dataset.digests)})
    log.info("%s: %d events written to %s", name, tables["events"].num_rows, folder)
    return files


def _keep(tables: Tables, *, files: DatasetFiles, marker: Path, record: dict[str, object]) -> None:
    """Put each file in place in one step, then the marker that makes them count."""
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        for key, path in zip(DatasetFiles._fields, files, strict=True):
            _put(path, partial(pq.write_table, tables[key]))
        record = {**record, "files": {path.name: _sha256(path) for path in files}}
        _put(marker, partial(_write_json, record))
    except OSError as error:
        raise DataError(
            f"{marker.parent} cannot be written: {error}; expected a folder we may write to: choose one"
        ) from error


def _first_good(name: str, folder: Path, *, dataset: Dataset) -> tuple[str, Tables]:
    failures = []
    for label, source in dataset.sources:
        try:
            log.info("%s: trying %s", name, label)
            tables = source(folder)
            found = {key: digest(tables[key], _COVERED[key]) for key in _COVERED}
            wrong = [key for key in _COVERED if found[key] != dataset.digests[key]]
            if wrong:
                raise DataError(
                    f"the rows of {' and '.join(wrong)} are not those of the data set (sha256 differs)"
                )
            return label, tables
        except _FAILURES as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.info("%s: not from %s: %s", name, label, reason)
            failures.append(f"  {label}: {reason}")
    raise DataError(
        f"the data set '{name}' could not be fetched into {folder}; tried:\n" + "\n".join(failures) + "\n"
        f"expected one of these to give it: {dataset.by_hand}, then run this again"
    )


def digest(table: pa.Table, columns: tuple[str, ...]) -> str:
    """sha256 over the columns in order: numbers as little-endian bytes, strings as UTF-8 lines."""
    total = hashlib.sha256()
    for column in columns:
        values = table[column]
        total.update(f"{column} {values.type} {len(values)}\n".encode())
        if pa.types.is_string(values.type):
            total.update("\n".join(values.to_pylist()).encode())
        else:
            numbers = values.to_numpy()
            total.update(np.ascontiguousarray(numbers.astype(numbers.dtype.newbyteorder("<"))).tobytes())
    return total.hexdigest()


def _is_complete(files: DatasetFiles, *, marker: Path, digests: Mapping[str, str]) -> bool:
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        sums: dict[str, str] = record["files"]
        return bool(record["rows"] == dict(digests) and all(_sha256(p) == sums[p.name] for p in files))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _refuse_others(files: DatasetFiles, *, name: str, digests: Mapping[str, str]) -> None:
    """Without a marker, a readable Parquet file with other rows is somebody else's work: leave it alone."""
    for key, path in zip(DatasetFiles._fields, files, strict=True):
        try:
            table = pq.read_table(path)
        except (OSError, ValueError, pa.ArrowException):
            continue  # not there, or half written
        try:
            same = digest(table, _COVERED[key]) == digests[key]
        except (KeyError, TypeError, ValueError, pa.ArrowException):  # other columns, nulls
            same = False
        if not same:
            raise DataError(
                f"{path} is there already and is not from {name}; expected a folder where {path.name} can be "
                "written: move the file away, or choose another folder"
            )


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then put it in place in one step."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(record: object, path: Path) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
