"""What the tests of events share: small files of events as they are written, and the table read from them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.data.events import Events, read_events, table_events

PLAIN: dict[str, Any] = {"user": "u", "item": "i", "weight": None, "time": None, "type": None}


def read(*files: Path, **names: str | None) -> pa.Table:
    """Reads u and i alone unless more columns are named."""
    return decoded(read_events(files, **PLAIN | names))


def decoded(events: Events) -> pa.Table:
    """The events with their ids and types, a weight of 1 where none is kept: one row each, in their order."""
    columns = {
        "user": events.user_ids.take(events.users),
        "item": events.item_ids.take(events.items),
        "weight": np.ones(len(events)) if events.weights is None else events.weights,
    }
    if events.times is not None:
        columns["time"] = events.times
    if events.types is not None:
        columns["type"] = pa.array(events.type_names, pa.string()).take(pa.array(events.types))
    return pa.table(columns)


def coded(table: pa.Table) -> Events:
    """The events of a table whose columns are called as ours."""
    names = {name: name if name in table.column_names else None for name in ("weight", "time", "type")}
    return table_events(table, user="user", item="item", **names)


def csv(path: Path, text: str) -> Path:
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def events(**more: Any) -> Events:
    return coded(pa.table({"user": [1, 2, 3], "item": [1, 1, 1], "weight": [1.0, 2.0, 4.0]} | more))
