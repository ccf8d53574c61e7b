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
CURVE = 0.7  # of the height of a band
LEAST_SPAN = 0.05  # of a band's axis, as a share of its largest value: a steady value stays flat


def quantizer_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, name: str = "") -> None:
    """Draw, for each site and weight layer, its learned value and its clipped share over epochs.

    Each has a band with an axis of its own, from the lowest to the highest value, which are written
    on it.

    Args:
        rows: rows of ``metrics.csv``, as numbers or texts. Looked at are ``epoch`` (from 0; drawn
            from 1) and, for each name, ``quant/<name>/alpha`` or ``quant/<name>/step_size``, and
            ``quant/<name>/clipped``.
        path: picture to write; see :func:`qatlab.results.figures.save`.
        name: of the run, written on the picture.
    """
    names = monitored(rows)
    if not names:
        raise ValueError("there is no quantizer to draw")
    clipped = np.array([[number(row, f"quant/{n}/clipped") for row in rows] for n in names])
    learned = np.array([[_learned(row, n) for row in rows] for n in names])
    known = np.isfinite(clipped).any(axis=0)  # the epochs of the quantize phase
    epochs = np.array([number(row, "epoch") + 1 for row in rows])[known]

    # In inches and placed by hand: one pair of axes for all, with a band of their height for each.
    band, head, foot = (0.5 if len(names) <= 24 else 0.36), 1.05, 0.6
    short = [n if len(n) <= LONGEST_NAME else "…" + n[1 - LONGEST_NAME :] for n in names]
    left, ticks = 0.3 + 0.08 * max(map(len, short)), 0.55
    wide, text = 2.8, 1.3
    width = left + 2 * (ticks + wide + text)
    height = head + len(names) * band + foot
    figure = figures.new_figure(width, height)
    shape = (wide / width, len(names) * band / height)
    of_learned, of_clipped = (
        figure.add_axes((x / width, foot / height, *shape))
        for x in (left + ticks, left + ticks + wide + text + ticks)
    )
    _draw(of_learned, epochs, learned[:, known], BLUE, "{:.3g}")
    _draw(of_clipped, epochs, 100 * clipped[:, known], ORANGE, "{:.2f}")
    of_learned.set_title("step or clip value", fontsize=11, loc="left")
    of_clipped.set_title("clipped values (%)", fontsize=11, loc="left")
    places = 1 - (np.arange(len(names)) + 0.5) / len(names)
    for place, words in zip(places, short, strict=True):
        y = (foot + place * len(names) * band) / height
        style: dict[str, Any] = {"fontsize": 9, "parse_math": False, "gid": "name"}
        figure.text(left / width, y, words, ha="right", va="center", **style)
    note = "Each band has an axis of its own. Beside it: first → last value."
    figure.text(0.15 / width, 1 - 0.55 / height, note, fontsize=10, color=GREY)
    figures.save(figure, path, name)


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
    ticks: list[tuple[float, str]] = []
    for i, curve in enumerate(values):
        finite = curve[np.isfinite(curve)]
        if not finite.size:
            continue
        low, high = _span(finite)
        base = i + (1 + CURVE) / 2  # y points down
        ticks += [(base, form.format(low)), (base - CURVE, form.format(high))]
        axes.axhspan(base - CURVE, base, color=LIGHT_GREY, alpha=0.4, linewidth=0)
        marker = "o-" if len(epochs) <= MOST_EPOCHS_WITH_DOTS else "-"
        y = base - CURVE * (curve - low) / (high - low)
        axes.plot(epochs, y, marker, color=color, markersize=2.5, linewidth=1.2)
        ends = [form.format(value) for value in (finite[0], finite[-1])]
        axes.text(1.02, i + 0.5, " → ".join(ends), transform=place, va="center", fontsize=9)
    axes.set_yticks([y for y, _ in ticks], [text for _, text in ticks], fontsize=6.5, color=GREY)
    axes.set_ylim(len(values), 0)
    margin = max(0.03 * np.ptp(epochs), 0.1)
    axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=11)
    axes.tick_params(axis="y", length=2, color=GREY)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _span(values: Array) -> tuple[float, float]:
    """Return the ends of a band's axis: the extremes of its values, but not closer than that."""
    low, high = float(values.min()), float(values.max())
    least = LEAST_SPAN * (abs(high) or 1)
    if high - low < least:
        middle = (low + high) / 2
        low = max(middle - least / 2, 0) if low >= 0 else middle - least / 2
        high = low + least
    return low, high
