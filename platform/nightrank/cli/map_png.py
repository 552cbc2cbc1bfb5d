"""The map of items as a picture. Imported where it is drawn: matplotlib takes a second to load.

The same map gives the same bytes with the same matplotlib and fonts.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from nightrank.batch.plot_style import INK, key, new_figure
from nightrank.cli.map_legend import grouped
from nightrank.release.item_map import ItemMap
from nightrank.release.store import replacing

_DPI = 120
_NAMED = 120  # items with the most users whose title is written, where it covers no other one
_TITLE_CHARS = 26


def write_png(path: Path, drawn: ItemMap, *, by_category: bool) -> None:
    """Draw the map and put the file in place in one step."""
    figure = _figure(drawn, by_category=by_category)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Glyph|Matplotlib currently does not support)")
        _name(figure, figure.axes[0], drawn)
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def _figure(drawn: ItemMap, *, by_category: bool) -> Figure:
    figure, axes = new_figure(11.0, 9.0)
    groups, places = grouped(drawn, by_category=by_category)
    points = np.array([(one.x, one.y) for one in drawn.items])
    shades = [groups[place].colour for place in places]
    size = 14.0 if len(drawn.items) > 500 else 30.0
    axes.scatter(points[:, 0], points[:, 1], c=shades, s=size, linewidths=0.3, edgecolors=INK, alpha=0.8)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(
        f"Items of release {drawn.release} ({drawn.family}): near by cosine is near here", fontsize=12
    )
    if by_category:
        keys = [
            key(f"{one.name} ({one.n_items})", color=one.colour, marker="o", linestyle="none", markersize=6)
            for one in groups
        ]
        legend = figure.legend(handles=keys, loc="outside right upper", fontsize=9, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _name(figure: Figure, axes: Axes, drawn: ItemMap) -> None:
    """Write the titles of the best-known items, each only where it covers none that is written already."""
    figure.draw_without_rendering()  # fixes where things are, so that texts can be measured
    taken: list[Bbox] = []
    for one in drawn.items[:_NAMED]:
        title = one.title if len(one.title) <= _TITLE_CHARS else one.title[: _TITLE_CHARS - 1].rstrip() + "…"
        text: Text = axes.annotate(
            title,
            (one.x, one.y),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=7,
            color=INK,
            parse_math=False,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.6},
        )
        box = text.get_window_extent()
        if any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
