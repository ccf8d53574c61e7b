from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from qatlab.results.quantizer_curves import monitored, quantizer_curves

FLOAT = {"epoch": "0", "train/loss": "0.5"}  # as csv.DictReader returns it
QUANTIZED = ("quant/conv/step_size", "quant/conv/clipped", "quant/act/alpha", "quant/act/clipped")


def rows(*epochs: tuple[float, float, float, float]) -> list[dict[str, Any]]:
    """Return a row of a float epoch, and one for each of the given ones."""
    cells = [dict(zip(QUANTIZED, map(str, values), strict=True)) for values in epochs]
    quantized = [
        {"epoch": str(i + 1), "train/loss": "0.5"} | more | {"quant/act/offset": "-0.5"}
        for i, more in enumerate(cells)
    ]
    return [{**FLOAT, **dict.fromkeys(QUANTIZED, "")}, *quantized]


TWO_EPOCHS = rows((0.1, 0.0, 6.0, 0.02), (0.2, 0.0, 3.0, 0.01))


def test_sites_and_layers_are_found_in_the_order_of_the_columns() -> None:
    assert monitored(TWO_EPOCHS) == ["conv", "act"]
    assert monitored([FLOAT]) == []
    assert monitored(rows()) == []  # columns without a value
    assert monitored(rows((0.1, math.nan, 6.0, 0.5), (0.1, math.inf, 6.0, math.nan))) == ["act"]


def names_on(figure: Figure) -> list[Any]:
    return [text for text in figure.texts if text.get_gid() == "name"]


def test_the_values_of_each_are_drawn_in_a_band_of_its_own(drawn: Callable[..., Figure]) -> None:
    figure = drawn(quantizer_curves, TWO_EPOCHS)
    learned, clipped = figure.axes
    assert [text.get_text() for text in names_on(figure)] == ["conv", "act"]
    assert [text.get_text() for text in learned.texts] == ["0.1 → 0.2", "6 → 3"]
    assert [text.get_text() for text in clipped.texts] == ["0.00 → 0.00", "2.00 → 1.00"]
    for axes in (learned, clipped):
        for i, line in enumerate(axes.lines):
            assert list(line.get_xdata()) == [2, 3]  # epochs count from 1; the first was float
            assert all(i < y < i + 1 for y in line.get_ydata())


def test_each_band_has_an_axis_from_its_lowest_to_its_highest_value(
    drawn: Callable[..., Figure],
) -> None:
    learned, clipped = drawn(quantizer_curves, TWO_EPOCHS).axes
    heights = [0.85 + i - np.array(line.get_ydata()) for i, line in enumerate(learned.lines)]
    assert heights[0] == pytest.approx([0, 0.7], abs=1e-9)  # 0.1, then 0.2
    assert heights[1] == pytest.approx([0.7, 0], abs=1e-9)  # 6, then 3
    ticks = dict(zip(learned.get_yticks().round(6), learned.get_yticklabels(), strict=True))
    written = {place: label.get_text() for place, label in ticks.items()}
    assert written == {0.85: "0.1", 0.15: "0.2", 1.85: "3", 1.15: "6"}
    # A share that is always 0 stays on the ground, and no axis has shares below 0.
    assert clipped.get_yticklabels()[0].get_text() == "0.00"
    assert [round(float(y), 6) for y in clipped.lines[0].get_ydata()] == [0.85, 0.85]


def test_a_steady_value_is_drawn_flat(drawn: Callable[..., Figure]) -> None:
    learned, _ = drawn(quantizer_curves, rows((1, 0, 6.0, 0), (1, 0, 6.003, 0))).axes
    low, high = (float(label.get_text()) for label in learned.get_yticklabels()[2:])
    assert high - low == pytest.approx(0.05 * 6, abs=0.01)  # the least that an axis spans
    first, last = learned.lines[1].get_ydata()
    assert first - last == pytest.approx(0.7 * 0.003 / 0.30015, rel=1e-3)


def test_a_missing_value_leaves_a_gap(drawn: Callable[..., Figure]) -> None:
    three = rows((0.1, 0.0, 6.0, 0.02), (0.2, 0.0, 3.0, 0.01), (0.3, 0.0, 2.0, 0.04))
    three[2] |= {"quant/act/alpha": "", "quant/act/clipped": ""}
    learned, _ = drawn(quantizer_curves, three).axes
    assert np.isnan(learned.lines[1].get_ydata()).tolist() == [False, True, False]
    assert learned.texts[1].get_text() == "6 → 2"


def test_sixty_sites_fit_with_a_line_of_text_each(drawn: Callable[..., Figure]) -> None:
    names = [f"a_network_with_a_name.layers.{i}.blocks.0.bottleneck.activation" for i in range(60)]
    row = {"epoch": 0} | {f"quant/{name}/clipped": 0.1 for name in names}
    row |= {f"quant/{name}/alpha": 1.0 for name in names}
    labels = names_on(drawn(quantizer_curves, [row]))
    assert labels[59].get_text() == "…rk_with_a_name.layers.59.blocks.0.bottleneck.activation"
    boxes = [label.get_window_extent() for label in labels]
    assert min(box.x0 for box in boxes) > 0
    assert all(below.y1 < above.y0 for above, below in pairwise(boxes))


def test_the_picture_is_the_only_file_left(tmp_path: Path) -> None:
    quantizer_curves(TWO_EPOCHS, tmp_path / "figures" / "quantizers.png")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["quantizers.png"]


def test_a_run_without_quantizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no quantizer to draw"):
        quantizer_curves([FLOAT], tmp_path / "x.png")
