"""A picture of what the quantizers of a run have learned, and how much they clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from qatlab.results import figures
from qatlab.results.figures import BLUE, GREY, LIGHT_GREY, ORANGE, Array, number

MOST_EPOCHS_WITH_DOTS = 40
LONGEST_NAME = 56  # characters


def quantizer_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw, for each site and weight layer, its learned value and its clipped share over epochs.

    Args:
        rows: rows of ``metrics.csv``, as numbers or texts. Looked at are ``epoch`` (from 0; drawn
            from 1) and, for each name, ``quant/<name>/alpha`` or ``quant/<name>/step_size``, and
            ``quant/<name>/clipped``.
        path: picture to write; its suffix names the format.
    """
    names = monitored(rows)
    if not names:
        raise ValueError("there is no quantizer to draw")
    clipped = np.array([[number(row, f"quant/{n}/clipped") for row in rows] for n in names])
    learned = np.array([[_learned(row, name) for row in rows] for name in names])
    known = np.isfinite(clipped).any(axis=0)  # the epochs of the quantize phase
    epochs = np.array([number(row, "epoch") + 1 for row in rows])[known]

    # In inches and placed by hand: one pair of axes for all, with a band of their height for each.
    band, head, foot = (0.4 if len(names) <= 24 else 0.3), 0.75, 0.6
    short = [n if len(n) <= LONGEST_NAME else "…" + n[1 - LONGEST_NAME :] for n in names]
    left, wide, text = 0.3 + 0.08 * max(map(len, short)), 2.8, 1.5
    width, height = left + 2 * (wide + text), head + len(names) * band + foot
    figure = figures.new_figure(width, height)
    shape = (wide / width, len(names) * band / height)
    of_learned, of_clipped = (
        figure.add_axes((x / width, foot / height, *shape)) for x in (left, left + wide + text)
    )
    _draw(of_learned, epochs, learned[:, known], BLUE, "{:.3g}")
    _draw(of_clipped, epochs, 100 * clipped[:, known], ORANGE, "{:.2f}")
    of_learned.set_title("step or clip value", fontsize=11, loc="left")
    of_clipped.set_title("clipped values (%)", fontsize=11, loc="left")
    places = np.arange(len(names)) + 0.6
    of_learned.set_yticks(places, short, fontsize=9, parse_math=False)
    of_clipped.set_yticks([])
    note = "Each curve is drawn from 0 up to its own largest value. Beside it: first → last."
    figure.text(0.15 / width, 1 - 0.3 / height, note, fontsize=10, color=GREY)
    figures.save(figure, path)


def monitored(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the sites and layers of which a ``metrics.csv`` has finite values, in its order."""
    ends = ("quant/", "/clipped")
    columns = dict.fromkeys(column for row in rows for column in row)
    return [
        column.removeprefix(ends[0]).removesuffix(ends[1])
        for column in columns
        if column.startswith(ends[0])
        and column.endswith(ends[1])
        and any(np.isfinite(number(row, column)) for row in rows)
    ]


def _learned(row: Mapping[str, Any], name: str) -> float:
    alpha = number(row, f"quant/{name}/alpha")
    return number(row, f"quant/{name}/step_size") if np.isnan(alpha) else alpha


def _draw(axes: Axes, epochs: Array, values: Array, color: str, form: str) -> None:
    """Draw a curve for each row of ``values``, shape (names, epochs), below one another."""
    place = axes.get_yaxis_transform()  # x as a fraction of the width, y in bands
    for i, curve in enumerate(values):
        finite = np.isfinite(curve)
        if not finite.any():
            continue
        base, largest = i + 0.9, float(curve[finite].max()) or 1.0
        y = base - 0.75 * curve / largest
        axes.fill_between(epochs, y, base, color=color, alpha=0.15, linewidth=0)
        marker = "o-" if len(epochs) <= MOST_EPOCHS_WITH_DOTS else "-"
        axes.plot(epochs, y, marker, color=color, markersize=2.5, linewidth=1.2)
        ends = [form.format(curve[finite][at]) for at in (0, -1)]
        axes.text(1.02, i + 0.6, " → ".join(ends), transform=place, va="center", fontsize=9)
    axes.hlines(np.arange(len(values)) + 0.9, 0, 1, transform=place, color=LIGHT_GREY, linewidth=1)
    axes.set_ylim(len(values), 0)
    margin = max(0.03 * np.ptp(epochs), 0.1)
    axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
