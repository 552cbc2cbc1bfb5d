"""The units of the score stage: buckets of users and parts of the catalogue, with their files and their records."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import nightrank
from nightrank.batch.records import BucketRecord, read_json
from nightrank.errors import ReleaseError
from nightrank.release.files import part_name
from nightrank.release.manifest import release_key
from nightrank.release.model_card import ModelCard
from nightrank.release.model_files import ModelFiles
from nightrank.release.reader import item_parts, list_array_names
from nightrank.release.store import Store

RECOMMENDATIONS, SIMILAR = "recommendations", "similar_items"
Unit = dict[str, Any]
# Equal bytes are promised for equal libraries: what others wrote is written again.
VERSIONS = {
    "nightrank": nightrank.__version__,
    "numpy": np.__version__,
    "pyarrow": pa.__version__,
    "numba": numba.__version__,
}


def all_units(model: ModelFiles) -> Iterator[Unit]:
    """Every bucket of users and every part of the items that holds anything, with its bounds."""
    bounds = {RECOMMENDATIONS: model.bucket_offsets, SIMILAR: item_parts(model.card.n_items)}
    for table, offsets in bounds.items():
        for part in range(len(offsets) - 1):
            yield {
                "table": table,
                "part": part,
                "n_parts": len(offsets) - 1,
                "start": int(offsets[part]),
                "stop": int(offsets[part + 1]),
            }


def record_name(unit: Unit) -> str:
    """The key of a unit's record in its run."""
    return f"buckets/{unit['table']}-{part_name(unit['part'], unit['n_parts'])}.json"


def unit_files(unit: Unit) -> tuple[str, str, str]:
    """The files of a unit in the release: Parquet, item rows, scores."""
    name = part_name(unit["part"], unit["n_parts"])
    return (
        f"{unit['table']}/part-{name}.parquet",
        *list_array_names(unit["table"], unit["part"], unit["n_parts"]),
    )


def packed(lists: Sequence[NDArray[np.int32]], *, n_items: int) -> str:
    """Which items stand in any of the lists (absent rows are -1): one bit an item, base64."""
    found = np.zeros(n_items, dtype=bool)
    for rows in lists:
        found[rows[rows >= 0]] = True
    return base64.b64encode(np.packbits(found).tobytes()).decode()


def unpacked(text: str, *, n_items: int) -> NDArray[np.bool_]:
    """What `packed` says, bool (n_items,). Raises ValueError where it is of other items, or nothing of the kind."""
    bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(bits) != -(-n_items // 8):
        raise ValueError(f"{len(bits)} bytes for {n_items} items")
    return np.unpackbits(bits, count=n_items).astype(bool)


def written(store: Store, unit: Unit, *, run: str, card: ModelCard) -> dict[str, Any] | None:
    """The record of a unit that was written for this model by these libraries; None where there is no such.

    run: the key of the run's folder, with a slash at its end. A record of other files, of another number of users or
    of other items than the unit's is none: somebody copied it. Nothing is said of the files.
    """
    record: dict[str, Any] | None = read_json(store, f"{run}{record_name(unit)}", shape=BucketRecord)
    if record is None or record["model_hash"] != card.model_hash or record.get("versions") != VERSIONS:
        return None
    users = unit["stop"] - unit["start"] if unit["table"] == RECOMMENDATIONS else 0
    if set(record["files"]) != set(unit_files(unit)) or record["users"] != users:
        return None
    try:
        unpacked(record["recommended"], n_items=card.n_items)
    except ValueError:
        return None
    return record


def intact(store: Store, unit: Unit, *, run: str, release: str, card: ModelCard) -> dict[str, Any] | None:
    """The record of a unit whose files are all what it says, None where it has to be written; reads them all."""
    record = written(store, unit, run=run, card=card)
    if record is None:
        return None
    folder, files = release_key(release), record["files"]
    try:
        if store.sizes(folder, list(files)) != [one["bytes"] for one in files.values()]:
            return None
        same = all(store.record(folder, name).model_dump() == expected for name, expected in files.items())
    except ReleaseError:
        return None
    return record if same else None
