"""The Parquet tables of a release: schemas, and writing a file in one step with bounded row groups.

Column statistics and a sort by id let readers skip row groups; file metadata names the run and the model and
holds nothing that differs between two equal runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.data.ids import Ids
from nightrank.ranking import TopK
from nightrank.release.records import FileRecord, record_of
from nightrank.release.store import Store

ROW_GROUP_ROWS = 64_000


def id_type(kind: str) -> pa.DataType:
    """The Parquet type of an id column: as the caller's own column was."""
    return pa.int64() if kind == "int64" else pa.string()


def recommendations_schema(user_id_type: str, item_id_type: str) -> pa.Schema:
    """user_id, rank (from 1), item_id, score."""
    return pa.schema(
        [
            pa.field("user_id", id_type(user_id_type), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("item_id", id_type(item_id_type), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    )


def similar_items_schema(item_id_type: str) -> pa.Schema:
    """item_id, rank (from 1), similar_item_id, score (cosine)."""
    return pa.schema(
        [
            pa.field("item_id", id_type(item_id_type), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("similar_item_id", id_type(item_id_type), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    )


def popular_schema(item_id_type: str) -> pa.Schema:
    """category (null: over all), rank (from 1), item_id, score (users per item)."""
    return pa.schema(
        [
            pa.field("category", pa.string()),
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("item_id", id_type(item_id_type), nullable=False),
            pa.field("score", pa.float32(), nullable=False),
        ]
    )


def items_schema(item_id_type: str, table: pa.Schema) -> pa.Schema:
    """item_id, and title and categories where the job's item table has them."""
    others = [table.field(name) for name in table.names if name != "item_id"]
    return pa.schema([pa.field("item_id", id_type(item_id_type), nullable=False), *others])


def sorting(schema: pa.Schema) -> list[pq.SortingColumn]:
    """What the rows of a table are sorted by, for readers that know to use it: its key, then the rank.

    All columns ascend; null, the category over all, is first.
    """
    key = schema.names[: schema.names.index("rank") + 1 if "rank" in schema.names else 1]
    return [pq.SortingColumn(place, nulls_first=True) for place in range(len(key))]


def list_rows(topk: TopK, *, owners: pa.Array, item_ids: Ids, schema: pa.Schema) -> pa.RecordBatch:
    """A TopK as rows (owner id, rank, item id, score): owners[i] owns list i."""
    present = topk.item_rows >= 0
    counts = topk.counts.astype(np.int64)
    ranks = np.broadcast_to(np.arange(1, topk.item_rows.shape[1] + 1, dtype=np.int32), present.shape)
    columns = [
        owners.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
        pa.array(ranks[present]),
        item_ids.take(topk.item_rows[present]),
        pa.array(topk.scores[present]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def write_table(
    store: Store,
    key: str,
    batches: Iterable[pa.RecordBatch],
    *,
    schema: pa.Schema,
    metadata: Mapping[str, str],
) -> FileRecord:
    """Write a Parquet file in one step (zstd, row groups of at most 64,000 rows) and return its record."""
    schema = schema.with_metadata(dict(metadata))
    with store.writing(key) as path:
        with pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            use_dictionary=_repeating(schema),
            sorting_columns=sorting(schema),
        ) as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=ROW_GROUP_ROWS)
        return record_of(path)


def _repeating(schema: pa.Schema) -> bool | list[str]:
    """The columns of a table of lists that a dictionary makes smaller: whose list it is, rank, and texts.

    Scores and integer ids of listed items are as short as their places in a dictionary: with one, a file was 1.4
    times as large and took twice the time. Other tables: whatever pyarrow chooses.
    """
    if "rank" not in schema.names:
        return True
    return [
        field.name
        for place, field in enumerate(schema)
        if place == 0 or field.name == "rank" or pa.types.is_string(field.type)
    ]
