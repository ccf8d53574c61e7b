"""A program that answers as the integer network does is known to have had its codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qatlab.deploy.verify.forms import Answer, OnTarget

IMAGES = torch.zeros(1, 1, 2, 2)


@pytest.mark.parametrize(("number", "codes"), [(3, {"site"}), (4, set())])
def test_codes_are_those_of_the_integers_where_outputs_are(
    number: int, codes: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Answer(torch.tensor([[3.0]]).double(), {"site": torch.tensor([7])})
    output = SimpleNamespace(unit=0, function=None)
    integers: Any = SimpleNamespace(
        look_inside=lambda images, pixels: inside, network=SimpleNamespace(output=output)
    )
    built: Any = SimpleNamespace(outputs=lambda pixels: torch.tensor([[number]]).numpy())
    monkeypatch.setattr("qatlab.deploy.verify.forms.finished", lambda numbers, function: numbers)
    form = OnTarget("host", built, integers, 0.0)
    assert set(form.look_inside(IMAGES, IMAGES).codes) == codes
