"""Pictures of a search: the bits of each layer, and what budgets cost in loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qatlab.results.figures import BLUE, GREY, LIGHT_GREY, ORANGE, new_figure, save

PARTS = {"weight": (BLUE, "weights"), "activation": (ORANGE, "activations")}


def bits_of_layers(rows: Sequence[Mapping[str, Any]], path: Path, name: str = "") -> None:
    """Draw the bits of each layer and site as bars, in the order of computation.

    Args:
        rows: ``name``, ``part`` (``weight`` or ``activation``), ``bits`` and ``increase``, the loss
            that these bits cost, which stands behind the bar.
        path: picture to write; see :func:`~qatlab.results.figures.save`.
        name: of what was searched, written on the picture.
    """
    figure = new_figure(7, max(0.24 * len(rows), 1.2) + 1.1)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for part, (color, label) in PARTS.items():
        own = [(i, row["bits"]) for i, row in enumerate(rows) if row["part"] == part]
        if own:
            places, bits = zip(*own, strict=True)
            axes.barh(places, bits, color=color, height=0.7, label=label)
    for i, row in enumerate(rows):
        text = f"{row['bits']}  +{row['increase']:.3g}"
        axes.text(row["bits"] + 0.1, i, text, va="center", fontsize=8, color=GREY)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(row["bits"] for row in rows))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("bits, and the increase of the loss by these alone", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, fontsize=9, edgecolor="none")
    save(figure, path, name)


def front(
    found: Sequence[tuple[float, float]],
    uniform: Sequence[tuple[float, float, int]],
    label: str,
    path: Path,
    name: str = "",
) -> None:
    """Draw predicted loss against a cost: of what was found, and of one width for all.

    Args:
        found: cost and loss of each point.
        uniform: cost, loss and bits likewise.
        label: of the cost, with its unit.
        path: picture to write; see :func:`~qatlab.results.figures.save`.
        name: of what was searched, written on the picture.
    """
    figure, axes = _against(label)
    axes.plot(*zip(*sorted(found), strict=True), "o-", color=BLUE, markersize=4, label="found")
    costs, losses, widths = zip(*sorted(uniform), strict=True)
    axes.plot(costs, losses, "s--", color=ORANGE, markersize=4, label="one width for all")
    for cost, loss, own in zip(costs, losses, widths, strict=True):
        axes.annotate(str(own), (cost, loss), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.tick_params(axis="y", which="minor", labelsize=8)
    axes.set_ylabel("predicted loss (logarithmic scale)", fontsize=10)
    axes.grid(color=LIGHT_GREY)
    axes.legend(fontsize=9, edgecolor="none")
    save(figure, path, name)


def trained(
    points: Sequence[Mapping[str, Any]],
    marks: Mapping[str, float],
    label: str,
    path: Path,
    name: str = "",
) -> None:
    """Draw what short trainings have reached against a cost.

    Args:
        points: ``cost``, ``accuracy`` (a fraction), ``whole`` (not ended early) and ``chosen``.
        marks: accuracies that are drawn as lines, by what they are called.
        label: of the cost, with its unit.
        path: picture to write; see :func:`~qatlab.results.figures.save`.
        name: of what was searched, written on the picture.
    """
    figure, axes = _against(label)
    for text, accuracy in marks.items():
        axes.axhline(100 * accuracy, color=GREY, linestyle="--", linewidth=1)
        place = (1, 100 * accuracy)
        transform = axes.get_yaxis_transform()
        axes.text(*place, f"{text} ", transform=transform, ha="right", va="bottom", fontsize=8)
    kinds = {True: (BLUE, "o", "trained"), False: (GREY, "x", "ended early")}
    for whole, (color, marker, text) in kinds.items():
        own = [(p["cost"], 100 * p["accuracy"]) for p in points if p["whole"] is whole]
        if own:
            axes.plot(*zip(*own, strict=True), marker, color=color, markersize=5, label=text)
    chosen = [(p["cost"], 100 * p["accuracy"]) for p in points if p["chosen"]]
    if chosen:
        axes.plot(
            *zip(*chosen, strict=True),
            "o",
            color=ORANGE,
            markersize=11,
            fillstyle="none",
            label="the answer",
        )
    axes.set_ylabel("top-1 on validation images (%)", fontsize=10)
    axes.grid(color=LIGHT_GREY)
    if points:
        axes.legend(fontsize=9, edgecolor="none")
    save(figure, path, name)


def _against(label: str) -> tuple[Figure, Axes]:
    """Return an empty picture of something against a cost, and its axes."""
    figure = new_figure(7, 4.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.4g}")
    )
    axes.set_xlabel(label, fontsize=10)
    return figure, axes
