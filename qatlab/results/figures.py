"""Pictures of a run: learning curves, confusion matrix, weight histograms.

Each has a canvas of its own, so that no state of pyplot is read or changed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from qatlab.system.files import write_bytes

Array = NDArray[Any]

# From the palette of Okabe and Ito, whose colours differ with every kind of colour blindness.
BLUE, ORANGE = "#0072B2", "#D55E00"
GREY, LIGHT_GREY = "#555555", "#E6E6E6"
FORMATS = (".png", ".svg", ".pdf")
WITHOUT_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
MOST_CLASSES_WITH_COUNTS = 25
MOST_CLASSES_WITH_NAMES = 60


def learning_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, name: str = "") -> None:
    """Draw accuracy and loss over the epochs, with the change of phase marked.

    Args:
        rows: rows of ``metrics.csv``, as numbers or texts. Looked at are ``epoch`` (from 0; drawn
            from 1), ``phase``, ``train/loss``, ``train/acc``, ``val/loss`` and ``val/acc``; each
            may be missing or empty.
        path: picture to write; see :func:`save`.
        name: of the run, written on the picture.
    """
    rows = [row for row in rows if not math.isnan(number(row, "epoch"))]
    epochs = np.array([number(row, "epoch") + 1 for row in rows])
    phases = _phases(rows, epochs)
    figure = new_figure(8, 6.5)
    figure.set_layout_engine("constrained")
    accuracy, loss = figure.subplots(2, 1, sharex=True)

    drawn = _draw_curves(accuracy, rows, epochs, "acc", 100)
    if drawn.size:
        _accuracy_scale(accuracy, drawn)
    _mark_best(accuracy, rows, epochs, phases)
    drawn = _draw_curves(loss, rows, epochs, "loss", 1)
    if (drawn > 0).any():
        _loss_scale(loss, drawn[drawn > 0])

    for axes in (accuracy, loss):
        axes.grid(color=LIGHT_GREY)
        for first, _, _ in phases[1:]:
            axes.axvline(first - 0.5, color=GREY, linestyle="--", linewidth=1)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=10, edgecolor="none")
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GREY)
    style: dict[str, Any] = {"ha": "center", "fontsize": 11, "color": GREY, "parse_math": False}
    for first, last, phase in phases:
        place = accuracy.get_xaxis_transform()  # x in epochs, y as a fraction of the height
        accuracy.text((first + last) / 2, 1.02, phase, transform=place, **style)
    accuracy.set_ylabel("accuracy (%)", fontsize=11)
    loss.set_ylabel("loss (logarithmic scale)", fontsize=11)
    loss.set_xlabel("epoch", fontsize=11)
    loss.set_xlim(0.5, max(epochs, default=1) + 0.5)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    save(figure, path, name)


def confusion_matrix(
    matrix: Array | Sequence[Sequence[int]],
    class_names: Sequence[str],
    path: str | Path,
    name: str = "",
) -> None:
    """Draw the errors of a classifier by class, and the recall of each class beside them.

    The colours show errors only, on a scale that lets a single one be seen; the diagonal is grey.

    Args:
        matrix: sample counts ``matrix[target][estimated]``, shape (classes, classes).
        class_names: one name per class.
        path: picture to write; see :func:`save`.
        name: of the run, written on the picture.
    """
    counts = np.asarray(matrix)
    n = len(class_names)
    if n == 0 or counts.shape != (n, n):
        raise ValueError(f"{n} class names do not fit a confusion matrix of shape {counts.shape}")
    hits, samples = np.diagonal(counts), counts.sum(axis=1)
    diagonal = np.eye(n, dtype=bool)

    side = min(max(0.5 * n, 4.0), 12.0)  # inches
    figure = new_figure(side + 3, side + 1)
    figure.set_layout_engine("constrained")
    cells, recall = figure.subplots(1, 2, sharey=True, width_ratios=(side, 1.5))
    errors = np.where(diagonal, np.nan, counts)  # nan is not painted: the grey below shows
    norm = PowerNorm(0.5, vmin=0, vmax=max(1, np.where(diagonal, 0, counts).max()))
    cells.set_facecolor(LIGHT_GREY)
    image = cells.imshow(errors, cmap="Oranges", norm=norm, aspect="auto", interpolation="none")
    if n <= MOST_CLASSES_WITH_COUNTS:
        for target, estimated in np.argwhere(counts > 0):
            color = "white" if norm(errors[target, estimated]) > 0.7 else "black"
            text = f"{counts[target, estimated]:.0f}"
            cells.text(estimated, target, text, color=color, fontsize=9, ha="center", va="center")
    else:
        bar = figure.colorbar(image, ax=recall, label="errors", aspect=40)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if n <= MOST_CLASSES_WITH_NAMES:
        names = [name if len(name) <= 20 else name[:19] + "…" for name in class_names]
        turned = 90 if max(map(len, names)) > 2 else 0
        size = 10 if n <= MOST_CLASSES_WITH_COUNTS else 8
        cells.set_xticks(range(n), names, rotation=turned, fontsize=size, parse_math=False)
        cells.set_yticks(range(n), names, fontsize=size, parse_math=False)
    _draw_recall(recall, hits, samples)
    right, total = hits.sum(), samples.sum()
    share = f" ({100 * right / total:.2f} %)" if total else ""
    cells.set_title(f"{right:.0f} of {total:.0f} right{share}", fontsize=12, loc="left")
    cells.set_xlabel("estimated class", fontsize=11)
    cells.set_ylabel("true class", fontsize=11)
    save(figure, path, name)


def weight_histograms(
    layers: Sequence[tuple[str, Array, Array, int]], path: str | Path, name: str = ""
) -> None:
    """Draw the float weights of each layer, and below them the grid they are quantized to.

    Args:
        layers: name, float weights, quantized weights (both of shape (N,)) and bits of each layer.
        path: picture to write; see :func:`save`.
        name: of the run, written on the picture.
    """
    if not layers:
        raise ValueError("there is no quantized layer to draw")
    columns = min(len(layers), max(2, math.ceil(math.sqrt(len(layers) / 1.5))))
    rows = math.ceil(len(layers) / columns)
    # In inches and placed by hand: matplotlib's layout engine takes long for 120 axes.
    panel_width, panel_height, margin, head = max(3.6, 6.5 / columns), 2.7, 0.5, 0.9
    width, height = columns * panel_width + 0.2, rows * panel_height + head
    figure = new_figure(width, height)
    text = "Above: float weights. Below: quantized weights, in % of the layer at each level."
    figure.text(0.15 / width, 1 - 0.6 / height, text, fontsize=11)
    for i, (layer, weights, quantized, bits) in enumerate(layers):
        row, column = divmod(i, columns)
        left, bottom = column * panel_width + margin, height - head - (row + 1) * panel_height
        size = ((panel_width - margin - 0.15) / width, 0.8 / height)
        above, below = (
            figure.add_axes((left / width, (bottom + up) / height, *size)) for up in (1.5, 0.4)
        )
        n_levels = _draw_layer(above, below, weights, quantized)
        short = layer if len(layer) <= 38 else "…" + layer[-37:]
        title = f"{short}\n{bits} bits, {n_levels} levels in use"
        above.set_title(title, fontsize=10, loc="left", parse_math=False)
    save(figure, path, name)


def _draw_curves(
    axes: Axes, rows: Sequence[Mapping[str, Any]], epochs: Array, metric: str, factor: float
) -> Array:
    """Draw training and validation values of a metric and return all that were drawn."""
    drawn = [np.empty(0)]
    for part, label, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
        values = factor * np.array([number(row, f"{part}/{metric}") for row in rows])
        known = np.isfinite(values)
        if known.any():
            size = 4 if len(epochs) <= 60 else 0
            axes.plot(epochs[known], values[known], "o-", color=color, label=label, ms=size)
            drawn.append(values[known])
    return np.concatenate(drawn)


def _mark_best(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    epochs: Array,
    phases: Sequence[tuple[float, float, str]],
) -> None:
    """Ring the best validation accuracy of the last phase: the network that a run hands out."""
    start = phases[-1][0] if phases else 1
    accuracy = np.array([100 * number(row, "val/acc") for row in rows])
    accuracy[epochs < start] = np.nan
    if np.isfinite(accuracy).any():
        best = np.nanargmax(accuracy)
        label = f"best: {accuracy[best]:.2f} % in epoch {epochs[best]:.0f}"
        ring: dict[str, Any] = {"color": "black", "fillstyle": "none", "markersize": 10}
        axes.plot(epochs[best], accuracy[best], "o", label=label, **ring)


def _accuracy_scale(axes: Axes, percent: Array) -> None:
    """Show where the accuracy ends, not how it began: the first epochs may lie below."""
    best = percent.max()
    low = max(percent.min(), best - 3 * (best - np.quantile(percent, 0.25)))
    margin = max(0.08 * (best - low), 0.1)
    axes.set_ylim(low - margin, best + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y <= 100 else ""))


def _loss_scale(axes: Axes, losses: Array) -> None:
    """Make the axis logarithmic, from one of the numbers 1, 2, 5 times a power of ten to another.

    So there are always two ticks with plain numbers, however few values there are.
    """
    lowest, highest = math.log10(losses.min()), math.log10(losses.max())
    powers = range(math.floor(lowest) - 1, math.ceil(highest) + 2)
    numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    low = max(x for x in numbers if x < losses.min())
    high = min(x for x in numbers if x > losses.max())
    ticks = [x for x in numbers if low <= x <= high]
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= 12 else ticks[::3]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))


def _draw_recall(axes: Axes, hits: Array, samples: Array) -> None:
    """Draw one dot per class: the share of its samples that were recognized."""
    seen = np.flatnonzero(samples)
    recall = 100 * hits[seen] / samples[seen]
    axes.plot(recall, seen, "o", color=BLUE, markersize=6 if len(hits) <= 60 else 2)
    margin = max(0.06 * (100 - recall.min(initial=100)), 0.2)
    axes.set_xlim(recall.min(initial=100) - margin, 100 + margin)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_title("recall (%)", fontsize=12)
    axes.grid(axis="x", color=LIGHT_GREY)
    axes.tick_params(axis="y", left=False, labelleft=False)
    if len(hits) <= MOST_CLASSES_WITH_NAMES:
        labels = dict(zip(seen, recall, strict=True))
        place = axes.get_yaxis_transform()  # x as a fraction of the width, y in classes
        for i in range(len(hits)):
            text = f"{labels[i]:.1f}" if i in labels else "no sample"
            axes.text(1.05, i, text, transform=place, va="center", fontsize=9)


def _draw_layer(above: Axes, below: Axes, weights: Array, quantized: Array) -> int:
    """Draw one layer on two axes and return how many levels its weights take."""
    limit, grid_limit = _largest(weights), _largest(quantized)
    if grid_limit <= 1.05 * limit:  # rounded on the scale of the weights: the two share an axis
        limit = grid_limit = max(grid_limit, float(np.quantile(np.abs(weights), 0.999)))
    # Otherwise the quantizer scales (SAT: to [-1, 1]), and each has an axis of its own.
    above.stairs(*np.histogram(weights, 81, range=(-limit, limit)), fill=True, color=BLUE)
    above.set_yticks([])
    above.set_xlim(-1.05 * limit, 1.05 * limit)

    # Rounded, as the same level may come out of different operations on floats.
    levels, counts = np.unique(np.round(quantized / grid_limit, 5), return_counts=True)
    share = 100 * counts / max(quantized.size, 1)
    below.vlines(levels * grid_limit, 0, share, color=ORANGE, linewidth=1.2)
    if len(levels) <= 32:
        below.plot(levels * grid_limit, share, "o", color=ORANGE, markersize=3)
    below.set_ylim(bottom=0)
    below.set_xlim(-1.05 * grid_limit, 1.05 * grid_limit)
    below.yaxis.set_major_locator(MaxNLocator(2))
    for axes in (above, below):
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return len(levels)


def _phases(rows: Sequence[Mapping[str, Any]], epochs: Array) -> list[tuple[float, float, str]]:
    """Return first epoch, last epoch and name of each phase, in order; none where unnamed."""
    spans: list[tuple[float, float, str]] = []
    for row, epoch in zip(rows, epochs, strict=True):
        phase = str(row.get("phase") or "")
        if spans and (spans[-1][2] == phase or not phase):
            spans[-1] = (spans[-1][0], epoch, spans[-1][2])
        elif phase:
            spans.append((epoch, epoch, phase))
    return spans


def number(row: Mapping[str, Any], name: str) -> float:
    """Return a value of a row of ``metrics.csv``, or NaN if it is missing or empty."""
    value = row.get(name)
    return math.nan if value is None or value == "" else float(value)


def _largest(values: Array) -> float:
    """Return the largest magnitude, or 1 where there is none above 0."""
    return float(np.abs(values).max(initial=0)) or 1.0


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches with a canvas of its own."""
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path, name: str = "") -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: what to write.
        path: its suffix names the format; without one, a file of each of ``FORMATS`` is written.
        name: of the run, written on top of the figure, in as much of its width as there is.
    """
    path = Path(path)
    if name:
        _write_name(figure, name)
    for suffix in [path.suffix] if path.suffix else FORMATS:
        content = io.BytesIO()
        with rc_context({"svg.hashsalt": "qatlab"}):  # or names inside of an SVG are drawn by lot
            figure.savefig(content, format=suffix[1:], metadata=WITHOUT_DATE.get(suffix))
        write_bytes(path.with_suffix(suffix), content.getvalue())


def _write_name(figure: Figure, name: str) -> None:
    width, height = figure.get_size_inches()
    most = int((width - 0.3) / 0.09)  # characters of 10 points
    shown = name if len(name) <= most else f"{name[: most - most // 2 - 1]}…{name[-(most // 2) :]}"
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0, 1, 1 - 0.3 / height))  # type: ignore[call-arg]
    style: dict[str, Any] = {"fontsize": 10, "color": GREY, "parse_math": False}
    figure.text(0.15 / width, 1 - 0.24 / height, shown, **style)
