"""What the tests of events share: small files of events as they are written, and the table read from them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.data.events import read_events


def read(*files: Path, **names: str | None) -> pa.Table:
    """Reads u and i alone unless more columns are named."""
    return read_events(
        files, **{"user": "u", "item": "i", "weight": None, "time": None, "type": None} | names
    ).table


def csv(path: Path, text: str) -> Path:
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def events(**more: Any) -> pa.Table:
    return pa.table({"user": [1, 2, 3], "item": [1, 1, 1], "weight": [1.0, 2.0, 4.0]} | more)
