"""Which colour an item of the map has: the categories that most items begin with have one each, the rest are grey."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nightrank.batch.plot_style import GREY, PALETTE
from nightrank.release.item_map import ItemMap

OTHER, NONE, ITEMS = "other", "none", "items"


@dataclass(frozen=True)
class Group:
    """One line of the legend; is_rest: grey, not a category of its own."""

    name: str
    colour: str
    n_items: int
    is_rest: bool = False


def grouped(drawn: ItemMap, *, by_category: bool) -> tuple[list[Group], list[int]]:
    """The lines of the legend, and each item's place among them.

    By an item's first category: as many as there are colours, most items first, ties by name; then `other` and
    `none` where there are such. Not by category: all items are one group.
    """
    if not by_category:
        return [Group(ITEMS, PALETTE[0], len(drawn.items))], [0] * len(drawn.items)
    firsts = [one.categories[0] if one.categories else None for one in drawn.items]
    counts = Counter(name for name in firsts if name is not None)
    chosen = sorted(counts, key=lambda name: (-counts[name], name))[: len(PALETTE)]
    groups = [Group(name, colour, counts[name]) for name, colour in zip(chosen, PALETTE, strict=False)]
    places = {name: place for place, name in enumerate(chosen)}
    rest = {
        OTHER: sum(name is not None and name not in places for name in firsts),
        NONE: sum(name is None for name in firsts),
    }
    of_rest = {}
    for name, n_items in rest.items():
        if n_items:
            of_rest[name] = len(groups)
            groups.append(Group(name, GREY, n_items, is_rest=True))
    return groups, [
        places[name] if name in places else of_rest[NONE if name is None else OTHER] for name in firsts
    ]
