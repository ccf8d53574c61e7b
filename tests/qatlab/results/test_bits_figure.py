from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from qatlab.results import bits_figure

ROWS = [
    {"name": "conv$1_2$", "part": "weight", "bits": 3, "increase": 0.012},
    {"name": "relu1", "part": "activation", "bits": 8, "increase": 0.0},
    {"name": "fc", "part": "weight", "bits": 2, "increase": 1.5},
]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(bits_figure, "save", lambda figure, *_: figures.append(figure))
    return figures


def test_each_tensor_has_a_bar_of_its_bits(saved: list[Figure]) -> None:
    bits_figure.bits_of_layers(ROWS, Path("unused.svg"))
    (axes,) = saved[0].axes
    assert sorted(bar.get_width() for bar in axes.patches) == [2, 3, 8]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv$1_2$", "relu1", "fc"]
    assert [text.get_text() for text in axes.texts] == ["3  +0.012", "8  +0", "2  +1.5"]


def test_a_front_lies_beside_uniform_bits(saved: list[Figure]) -> None:
    uniform = [(30.0, 0.1, 4), (10.0, 0.9, 2)]
    bits_figure.front([(20.0, 0.2), (15.0, 0.4)], uniform, "flash (bytes)", Path("unused.svg"))
    (axes,) = saved[0].axes
    found, same = axes.lines
    assert list(found.get_xdata()) == [15, 20]
    assert list(same.get_ydata()) == [0.9, 0.1]
    assert axes.get_xlabel() == "flash (bytes)"


def test_a_picture_is_written(tmp_path: Path) -> None:
    bits_figure.bits_of_layers(ROWS, tmp_path / "bits.svg", "found")
    assert (tmp_path / "bits.svg").read_text().startswith("<?xml")
