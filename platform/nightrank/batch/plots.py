"""The plots of a sweep, as PNG: metric against time, metric by parameter, the best so far against the baseline.

Drawn from the trials' records alone: the same records give the same bytes with the same matplotlib. Import it where
it is called, so that the processes of trials never load matplotlib.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from nightrank.batch.leaderboard import Record, number, ranked
from nightrank.batch.plot_style import (
    FAINT,
    GREY,
    INK,
    colour,
    empty_figure,
    families,
    finish,
    key,
    label,
    new_figure,
    on_validation,
    plain,
    say,
    star,
    state_keys,
    time_label,
)
from nightrank.batch.timeline import Curve, curves
from nightrank.config.families import BASELINES
from nightrank.quality.names import is_loss, signed
from nightrank.release.store import Store

NAMES = ("metric_by_time.png", "metric_by_parameter.png", "best_against_baseline.png")

_SPANS = 10.0  # a parameter whose largest value is this many times its smallest gets a logarithmic axis
_FEW = 6  # so many distinct values are written at the axis as they are
_DPI = 120


def write_plots(records: Sequence[Record], *, store: Store, key: str, metric: str) -> None:
    """Draw the three plots below a key of a store, each put in place in one step.

    metric: its name, such as ndcg@10. Records without a value or a history are left out of what cannot show them;
    a plot with nothing to show says so.
    """
    drawn = (
        _metric_by_time(records, metric=metric),
        _metric_by_parameter(records, metric=metric),
        _best_against_baseline(records, metric=metric),
    )
    for figure, name in zip(drawn, NAMES, strict=True):
        with store.writing(f"{key}/{name}") as path:
            figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": None})


def _metric_by_time(records: Sequence[Record], *, metric: str) -> Figure:
    figure, axes = new_figure(8.5, 5.0)
    found = curves(records)
    best = _best(found, metric=metric)
    for curve in found:
        is_best = best is not None and curve.record is best.record
        _draw_curve(axes, curve, is_best=is_best)
    if best is not None:
        star(axes, best.seconds[-1], best.values[-1])
    label(axes, f"{metric} of every trial over time", x=time_label(found), y=on_validation(metric))
    finish(figure, axes, found, shown=[curve.record for curve in found], of=len(records))
    return figure


def _draw_curve(axes: Axes, curve: Curve, *, is_best: bool) -> None:
    is_done, shade = curve.record["state"] == "done", colour(curve.record["family"])
    axes.plot(
        curve.seconds,
        curve.values,
        color=shade,
        alpha=1.0 if is_done else FAINT,
        linewidth=2.4 if is_best else 1.2,
        zorder=3 if is_best else 2,
    )
    axes.plot(
        curve.seconds[-1:],
        curve.values[-1:],
        marker="o" if is_done else "x",
        markersize=4.5,
        linestyle="none",
        color=shade,
        alpha=1.0 if is_done else FAINT,
        zorder=3,
    )


def _best_against_baseline(records: Sequence[Record], *, metric: str) -> Figure:
    figure, axes = new_figure(8.5, 4.6)
    found = curves(records)
    done = sorted((one for one in found if _is_candidate(one.record)), key=lambda curve: curve.seconds[-1])
    end = max((curve.seconds[-1] for curve in found), default=1.0)
    for curve in done:
        shade = colour(curve.record["family"])
        axes.plot(curve.seconds[-1:], curve.values[-1:], "o", color=shade, alpha=0.6, markersize=5)
    best = _best(found, metric=metric)
    if best is not None:
        better = min if is_loss(metric) else max
        so_far = [better(one.values[-1] for one in done[: place + 1]) for place in range(len(done))]
        times = [curve.seconds[-1] for curve in done]
        axes.step([*times, end], [*so_far, so_far[-1]], where="post", color=INK, linewidth=2.0, zorder=2)
        low, high = (number(best.record.get(name)) for name in ("low", "high"))
        if low is not None and high is not None:
            axes.plot([best.seconds[-1]] * 2, [low, high], color=INK, linewidth=1.0, marker="_", zorder=2)
        star(axes, best.seconds[-1], best.values[-1])
    _draw_baseline(axes, records)
    baseline = next((one["family"] for one in records if one["family"] in BASELINES), "popularity")
    label(
        axes,
        f"The best trial so far against {baseline}: {metric}",
        x=time_label(found),
        y=on_validation(metric),
    )
    more = [] if best is None else [key("best so far (95%)", color=INK, linewidth=2.0)]
    if any(curve.record["family"] in BASELINES for curve in found):
        more.append(key(f"{baseline} (95%)", color=GREY, linestyle="--", linewidth=1.6))
    finish(figure, axes, found, shown=[curve.record for curve in done], of=len(records), more=more)
    return figure


def _draw_baseline(axes: Axes, records: Sequence[Record]) -> None:
    for record in records:
        value = number(record.get("value"))
        if record["family"] not in BASELINES or value is None:
            continue
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1.6, zorder=1)
        low, high = (number(record.get(name)) for name in ("low", "high"))
        if low is not None and high is not None:
            axes.axhspan(low, high, color=GREY, alpha=0.15, linewidth=0, zorder=0)


def _metric_by_parameter(records: Sequence[Record], *, metric: str) -> Figure:
    measured = [one for one in records if number(one.get("value")) is not None and one["state"] != "failed"]
    rows = {family: names for family in families(measured) if (names := _varied(measured, family))}
    if not rows:
        figure, axes = new_figure(8.5, 3.0)
        label(axes, f"{metric} by parameter", x="", y=on_validation(metric))
        say(axes, "no parameter was measured at two values")
        return figure
    width = max(len(names) for names in rows.values())
    figure = empty_figure(max(7.0, 2.7 * width + 0.6), 2.3 * len(rows) + 0.9)
    grid = figure.subplots(len(rows), width, squeeze=False, sharey=True)
    best = next((one for one in ranked(measured, metric=metric) if _is_candidate(one)), None)
    for cells, (family, names) in zip(grid, rows.items(), strict=True):
        for axes in cells[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(cells, names, strict=False):
            _panel(
                axes,
                [one for one in measured if one["family"] == family and name in one["params"]],
                name=name,
                best=best,
            )
        cells[0].set_ylabel(metric, fontsize=9)
    figure.suptitle(f"{metric} on validation, by parameter", fontsize=12)
    figure.legend(
        handles=state_keys(measured), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return figure


def _panel(axes: Axes, records: Sequence[Record], *, name: str, best: Record | None) -> None:
    for record in records:
        is_done, shade = record["state"] == "done", colour(record["family"])
        axes.plot(
            [record["params"][name]],
            [record["value"]],
            marker="o" if is_done else "x",
            linestyle="none",
            color=shade,
            alpha=0.85 if is_done else FAINT,
            markersize=5,
        )
        if record is best:
            star(axes, record["params"][name], record["value"])
    _scale(axes, sorted({record["params"][name] for record in records}))
    axes.set_title(f"{records[0]['family']}: {name}", fontsize=9)
    plain(axes)


def _scale(axes: Axes, values: Sequence[Any]) -> None:
    """Logarithmic where the values span a decade, or double from one to the next; few whole numbers as they are.

    Words stand side by side.
    """
    if isinstance(values[0], str):
        axes.margins(x=0.3)
        return
    are_few = len(values) <= _FEW and all(isinstance(value, int) for value in values)
    doubles = are_few and all(high >= 1.5 * low for low, high in itertools.pairwise(values))
    if values[0] > 0 and (values[-1] / values[0] >= _SPANS or doubles):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        if not doubles:  # whole decades, so that two or more have a label
            low, high = math.floor(math.log10(values[0])), math.ceil(math.log10(values[-1]))
            axes.set_xlim(0.8 * 10.0**low, 1.25 * 10.0**high)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    if doubles:
        axes.xaxis.set_major_locator(FixedLocator([float(value) for value in values]))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in values]))


def _varied(records: Sequence[Record], family: str) -> list[str]:
    """The parameters of a family that were measured at two values or more."""
    found: dict[str, set[Any]] = {}
    for record in records:
        for name, value in record["params"].items() if record["family"] == family else ():
            found.setdefault(name, set()).add(value)
    return sorted(name for name, values in found.items() if len(values) > 1)


def _is_candidate(record: Record) -> bool:
    return bool(record["state"] == "done" and record["family"] not in BASELINES)


def _best(found: Sequence[Curve], *, metric: str) -> Curve | None:
    return max(
        (one for one in found if _is_candidate(one.record)),
        key=lambda one: signed(one.values[-1], metric=metric),
        default=None,
    )
