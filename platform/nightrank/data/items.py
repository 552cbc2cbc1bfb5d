"""The item table as the caller's file holds it: ids, titles, categories, under our own names.

By the same readers and checks as events; an item that occurs twice is refused. Memory is that of the named columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.data import columns, formats, tables
from nightrank.data.columns import Place
from nightrank.data.metadata import refuse_repeats


def read_items(
    path: str | Path, *, item: str, title: str | None, categories: str | None, separator: str
) -> pa.Table:
    """The item table of a file, folder or glob, in file and row order.

    item: int64 or string, each once. title: string, may be null. categories: list<string>, [] where there are
    none; text is split at `separator`, spaces around each part go. The last two are absent where not named.
    Raises DataError on an item id that occurs twice, besides what `read_events` refuses.
    """
    names = list(dict.fromkeys(name for name in (item, title, categories) if name is not None))
    files = formats.find_files(path, what="items")
    parts: list[pa.Table] = []
    kinds: list[tuple[Path | str, str]] = []
    for file in files:
        raw = tables.read_columns(file, names)
        if raw.num_rows == 0:
            continue
        ids = columns.id_column(raw[item], at=Place(file, item))
        part = {"item": _plain(columns.as_written(ids) if formats.is_csv(file) else ids)}
        if title is not None:
            part["title"] = _plain(columns.text_column(raw[title], at=Place(file, title)))
        if categories is not None:
            part["categories"] = _categories(raw[categories], at=Place(file, categories), separator=separator)
        parts.append(pa.table(part))
        kinds.append((file, str(part["item"].type)))
    if not parts:
        tables.refuse_no_rows(files, what="items")
    tables.check_one_kind(kinds, name=item, what="items")
    items = pa.concat_tables(parts)
    refuse_repeats(items["item"], name=item, where=files, what="items")
    return items


def _categories(column: pa.ChunkedArray, *, at: Place, separator: str) -> pa.Array:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = column.combine_chunks()
    else:
        text = columns.text_column(column, at=at)
        lists = pc.split_pattern(text, pattern=separator).combine_chunks()
    words = pa.chunked_array([pc.list_flatten(lists)])
    words = _plain(pc.utf8_trim_whitespace(columns.text_column(words, at=at))).combine_chunks()
    kept = pc.fill_null(pc.not_equal(words, ""), fill_value=False)
    owners = pc.list_parent_indices(lists).filter(kept).to_numpy()
    ends = np.cumsum(np.bincount(owners, minlength=len(column)))
    return pa.ListArray.from_arrays(pa.array(np.r_[0, ends].astype(np.int32)), words.filter(kept))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as they are written to Parquet."""
    return column.cast(pa.string()) if columns.is_text(column.type) else column
