"""What is known of a file beside its content: size, checksum and, for Parquet, rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from nightrank.errors import ReleaseError


class FileRecord(BaseModel):
    """rows: of a Parquet file, None for an array. bytes: size. sha256: of the content, in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rows: int | None
    bytes: int
    sha256: str


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(path: Path) -> FileRecord:
    """Size, checksum and, for Parquet, rows of a file as it lies on disk.

    Raises ReleaseError where it is missing or cannot be read.
    """
    try:
        rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        return FileRecord(rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))
    except FileNotFoundError:
        raise ReleaseError(f"{path.name} is missing") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ReleaseError(f"{path.name} cannot be read: {error}") from None
