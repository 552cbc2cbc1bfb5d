"""An item by its title, as a person types it: the whole title, or a part that only one title has.

Upper and lower case do not count. It never guesses: of several titles that fit none is taken, and where none fits the
nearest ones are named.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable, Sequence

import numpy as np

from nightrank.errors import DataError
from nightrank.release.reader import Release

LISTED = 20  # candidates that an error names
NEAR = 3
_COMPARED = 100  # titles that share the most with the text, of which the nearest are found letter by letter


def item_row_of(release: Release, text: str) -> int:
    """The row of the item whose title is `text`, else of the only one whose title contains it.

    Raises DataError where there is none or more than one: with ids and titles to choose from, most users first.
    O(items).
    """
    if release.titles is None:
        raise DataError(f"release {release.id} has no titles; name the item by its id")
    wanted = text.strip().casefold()
    if wanted == "":
        raise DataError("found an empty title, expected one or a part of one")
    titles = [title.casefold() for title in _texts(release)]
    found = [row for row, title in enumerate(titles) if title == wanted]
    if not found:
        found = [row for row, title in enumerate(titles) if wanted in title]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{len(found)} titles of release {release.id} fit {text!r}; give more of it, or the id:\n"
            + "\n".join(_lines(release, found))
        )
    raise DataError(
        f"no title of release {release.id} contains {text!r}; the nearest are:\n"
        + "\n".join(_lines(release, _nearest(titles, wanted)))
    )


def _texts(release: Release) -> list[str]:
    """By row; an item without a title has an empty one."""
    assert release.titles is not None  # noqa: S101  whoever calls has asked
    texts: list[str] = release.titles.take(np.arange(release.model.card.n_items)).to_pylist()
    return texts


def _lines(release: Release, rows: Sequence[int]) -> Iterable[str]:
    """Id and title of items, most users first, ties by row; at most LISTED of them."""
    users = release.model.popularity
    ordered = sorted(rows, key=lambda row: (-int(users[row]), row))
    for row in ordered[:LISTED]:
        yield f"  {release.model.item_ids[row]!s:>8}  {release.title(row)}"
    if len(ordered) > LISTED:
        yield f"  and {len(ordered) - LISTED} more"


def _nearest(titles: Sequence[str], wanted: str) -> list[int]:
    """Rows of the titles most like a text: by letters, of those that share the most runs of three with it."""
    runs = _runs(wanted)
    shared = ((len(runs & own) / len(runs | own), -row) for row, own in enumerate(map(_runs, titles)) if own)
    likely = [-row for _, row in heapq.nlargest(_COMPARED, shared)]
    ratios = [(difflib.SequenceMatcher(None, wanted, titles[row]).ratio(), -row) for row in likely]
    return [-row for _, row in heapq.nlargest(NEAR, ratios)]


def _runs(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(max(1, len(text) - 2))} if text else set()
