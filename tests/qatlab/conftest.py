from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.figure import Figure

from qatlab.results import figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """Return a function that calls a drawing function and hands out the figure it would save."""

    def draw(function: Callable[..., None], *args: object) -> Figure:
        saved: list[Figure] = []
        monkeypatch.setattr(figures, "save", lambda figure, *_: saved.append(figure))
        function(*args, "unused.png")
        saved[0].draw_without_rendering()
        return saved[0]

    return draw
