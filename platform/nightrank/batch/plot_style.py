"""What the plots of a sweep have in common: colours of families, keys, labels, and a sentence for an empty one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nightrank.batch.leaderboard import Record
from nightrank.batch.timeline import Curve
from nightrank.config.families import BASELINES, FAMILIES

GREY, INK = "#777777", "#222222"
FAINT = 0.35

# Okabe and Ito (2008): told apart by colour-blind readers too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, of no window system and unknown to pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = empty_figure(width, height)
    return figure, figure.subplots()


def finish(
    figure: Figure,
    axes: Axes,
    found: Sequence[Curve],
    *,
    shown: Sequence[Record],
    of: int,
    more: Sequence[Line2D] = (),
) -> None:
    """Keys beside the axes; a sentence where there is nothing to draw, a count of what has no curve."""
    if not found:
        say(axes, f"none of {of} trials was measured")
        return
    lines = [key(name, color=colour(name), linewidth=2.0) for name in families(shown)]
    figure.legend(
        handles=[*more, *lines, *state_keys(shown)], loc="outside right upper", fontsize=8, frameon=False
    )
    axes.set_xlim(left=0)
    if of > len(found):
        text = f"not shown: {of - len(found)} of {of} trials, without a measurement"
        axes.text(0.99, 0.02, text, transform=axes.transAxes, ha="right", fontsize=8, color=GREY)


def state_keys(records: Sequence[Record]) -> list[Line2D]:
    """The marks of what is among the records: done, best, stopped early."""
    keys = []
    if any(record["state"] == "done" for record in records):
        keys.append(key("done", color=INK, marker="o", linestyle="none", markersize=4.5))
    if any(record["state"] == "done" and record["family"] not in BASELINES for record in records):
        keys.append(key("best", color=INK, marker="*", linestyle="none", markersize=9))
    if any(record["state"] == "stopped" for record in records):
        keys.append(
            key("stopped early", color=INK, marker="x", linestyle="none", alpha=FAINT + 0.2, markersize=5)
        )
    return keys


def key(label: str, **style: Any) -> Line2D:
    """One line of the legend."""
    return Line2D([], [], label=label, **style)


def star(axes: Axes, x: float, y: float) -> None:
    """Mark the best trial."""
    axes.plot(
        [x], [y], marker="*", markersize=13, color=INK, markeredgecolor="white", linestyle="none", zorder=5
    )


def say(axes: Axes, text: str) -> None:
    """A sentence instead of a plot."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=11, color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def label(axes: Axes, title: str, *, x: str, y: str) -> None:
    """Title and axis labels."""
    axes.set_title(title, fontsize=12)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    plain(axes)


def plain(axes: Axes) -> None:
    """A light grid, small ticks, no box."""
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def time_label(found: Sequence[Curve]) -> str:
    """What the time axis shows."""
    return "seconds since the sweep began" + (
        ", pauses left out" if any(one.after_pause for one in found) else ""
    )


def on_validation(metric: str) -> str:
    """What the value axis shows."""
    return f"{metric} on validation"


def families(records: Sequence[Record]) -> list[str]:
    """Their families by name, the baseline last."""
    return sorted({record["family"] for record in records}, key=lambda name: (name in BASELINES, name))


def colour(family: str) -> str:
    """The same colour for a family in every plot of every sweep."""
    names = sorted(FAMILIES.keys() - BASELINES)
    return PALETTE[names.index(family) % len(PALETTE)] if family in names else GREY
