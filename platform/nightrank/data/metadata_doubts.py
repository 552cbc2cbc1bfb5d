"""What a practitioner would ask about metadata before training on it, and what makes it meaningless.

A doubt stops no run. A table that has nothing to do with the events is a problem: of it nothing can be learned.
"""

from __future__ import annotations

from collections.abc import Iterator

from nightrank.data.attributes import Attribute, Categories
from nightrank.data.doubts import MOST, Doubt
from nightrank.data.features import MOST_DEVIATIONS
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata
from nightrank.data.metadata_counts import ColumnCounts, MetadataCounts, SideCounts


def metadata_problems(
    found: Interactions, metadata: Metadata | None, counts: MetadataCounts | None
) -> Iterator[str]:
    """Why nothing can be learned of a table. counts: of `metadata` beside `found`."""
    if metadata is None or counts is None:
        return
    for name, table, side, ids in (
        ("users", metadata.users, counts.users, found.user_ids),
        ("items", metadata.items, counts.items, found.item_ids),
    ):
        if table is not None and side is not None and side.with_events == 0:
            yield (
                f"no id of the {name}' table is that of one of the {name} with events: they have ids such as "
                f"{ids[0]!r}, the table has ids such as {table.ids[0].as_py()!r}; name the right table and id "
                "column, and write ids the same way in both"
            )


def metadata_doubts(metadata: Metadata | None, counts: MetadataCounts | None) -> Iterator[Doubt]:
    """The doubts that hold, in a fixed order; none of a table that is a problem. counts: of `metadata`."""
    if metadata is None or counts is None:
        return
    for name, table, side in (
        ("user", metadata.users, counts.users),
        ("item", metadata.items, counts.items),
    ):
        if table is None or side is None or side.with_events == 0:
            continue
        yield from _of_rows(side, name=name)
        for attribute, column in zip(table.attributes, side.columns, strict=True):
            yield from _of_column(attribute, column, name=name)


def _of_rows(side: SideCounts, *, name: str) -> Iterator[Doubt]:
    share = side.without_row / (side.with_events + side.without_row)
    if share > MOST:
        yield Doubt(
            f"{name}s_without_row",
            f"{share:.1%} of the {name}s with events have no row in the {name}s' table, hence no features; is it "
            "the right table, with the right id column?",
        )


def _of_column(attribute: Attribute, column: ColumnCounts, *, name: str) -> Iterator[Doubt]:
    which = f"the column '{column.name}' of the {name}s' table"
    if column.values <= 1:
        yield Doubt(
            f"constant_{name}_feature",
            f"{which} has {column.values} distinct value(s) where there are events: it tells nobody apart",
        )
    elif column.unique:
        yield Doubt(
            f"unique_{name}_feature",
            f"{which} gives every row a category of its own, as an id does: it tells nothing that the {name}'s own "
            "id does not",
        )
    if column.cut:
        yield Doubt(
            f"cut_{name}_feature",
            f"{which} has {column.cut} number(s) more than {MOST_DEVIATIONS:g} standard deviations from the mean, "
            f"which count as {MOST_DEVIATIONS:g}: does one stand for a missing value, such as 999999? leave its "
            "field empty; is it a column of a few large numbers? write their logarithms",
        )
    if isinstance(attribute, Categories) and (misfits := attribute.misfits) is not None:
        yield Doubt(
            f"nearly_numbers_{name}_feature",
            f"{which} holds categories, though all but {misfits.rows} of its {misfits.known} values read as "
            f"numbers: the first that does not is '{misfits.first}' in row {misfits.row} of {misfits.file.name}; if "
            "that is a slip, correct it",
        )
