"""The overview of a page as a picture: accuracy against costs, and against bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from qatlab.report.layers import FLOAT
from qatlab.report.marks import marks
from qatlab.report.settings import Setting, pareto_front
from qatlab.results import figures

COSTS = {"tested_bytes": "size (bytes)", "bit_operations": "bit operations per image"}
MANY_TIMES = 5  # costs that differ by a smaller factor get ticks at equal distances


def draw(settings: Sequence[Setting], path: Path) -> bool:
    """Draw what the settings have recorded.

    Args:
        settings: of any state; drawn are those with an accuracy.
        path: picture to write; its suffix names the format.

    Returns:
        False, without a picture, if no setting has both an accuracy and a cost.
    """
    measured = [setting for setting in settings if setting.mean is not None]
    known = {
        cost: [setting for setting in measured if getattr(setting.facts, cost)] for cost in COSTS
    }
    costs = [cost for cost in COSTS if known[cost]]
    cells = _best_by_bits(measured)
    if not _is_table(cells):
        cells = {}
    panels = len(costs) + bool(cells)
    if not costs:
        return False
    figure = figures.new_figure(5.5 * panels, 4.8)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for place, cost in zip(axes, costs, strict=False):
        _draw_front(place, known[cost], cost)
    if cells:
        _draw_cells(axes[-1], cells)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names of methods come from files
    figures.save(figure, path)
    return True


def _draw_front(axes: Axes, settings: Sequence[Setting], cost: str) -> None:
    """Draw accuracy against a cost: a point for each setting, a line along the best ones."""
    points = [(float(getattr(x.facts, cost)), 100 * (x.mean or 0)) for x in settings]
    front = [points[i] for i in pareto_front(points)]
    looks = marks(x.facts.method for x in settings)
    x, y = zip(*front, strict=True)
    axes.step(x, y, where="post", label="Pareto front", color=figures.GREY, linewidth=1, zorder=1)
    for method in sorted({x.facts.method for x in settings}):
        chosen = [i for i, x in enumerate(settings) if x.facts.method == method]
        axes.errorbar(
            [points[i][0] for i in chosen],
            [points[i][1] for i in chosen],
            yerr=[100 * (settings[i].deviation or math.nan) for i in chosen],
            fmt=looks[method].marker,
            color=looks[method].color,
            label=method or "method not recorded",
            markersize=7,
            elinewidth=1,
        )
    axes.set_xscale("log")
    values = [cost for cost, _ in points]
    few = max(values) < MANY_TIMES * min(values)
    axes.xaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=figures.LIGHT_GREY)
    axes.set_axisbelow(True)
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel("top-1 test accuracy (%)")


def _best_by_bits(settings: Sequence[Setting]) -> dict[tuple[str, str], float]:
    """Return the best mean accuracy for weight bits and activation bits, in percent."""
    cells: dict[tuple[str, str], float] = {}
    for setting in settings:
        place = (setting.facts.weight_bits, setting.facts.activation_bits)
        if all(place) and setting.mean is not None:
            cells[place] = max(cells.get(place, 0), 100 * setting.mean)
    return cells


def _is_table(cells: dict[tuple[str, str], float]) -> bool:
    """Return whether some quantized settings share a row or a column, as on the page."""
    places = [place for place in cells if place[0] != FLOAT]
    return any(len({place[i] for place in places}) < len(places) for i in (0, 1))


def _draw_cells(axes: Axes, cells: dict[tuple[str, str], float]) -> None:
    """Draw the best accuracy for each pair of bits, and write it down."""
    rows, columns = (
        sorted({place[i] for place in cells}, key=lambda bits: (bits == FLOAT, len(bits), bits))
        for i in (0, 1)
    )
    values = np.full((len(rows), len(columns)), np.nan)
    for (weight, activation), accuracy in cells.items():
        values[rows.index(weight), columns.index(activation)] = accuracy
    axes.imshow(values, cmap="cividis", origin="lower", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "black" if value > middle else "white"
            axes.text(column, row, f"{value:.2f}", color=color, ha="center", va="center")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("activation bits")
    axes.set_ylabel("weight bits")
    axes.set_title("best top-1 accuracy (%)", fontsize=11)
