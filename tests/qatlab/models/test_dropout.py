"""Dropout of the networks that have one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qatlab.models import VGG, GoogLeNet, MobileNetV2, SqueezeNet


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (VGG, {"depth": 11, "hidden": 16, "batch_norm": False}),
        (SqueezeNet, {}),
        (GoogLeNet, {}),
        (MobileNetV2, {"width": 0.25}),
    ],
)
def test_dropout_acts_in_training_only(
    network: type[nn.Module], arguments: dict[str, object], dropout: float
) -> None:
    torch.manual_seed(0)
    model = network(10, 3, dropout=dropout, **arguments)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), model(x)) == (dropout == 0)
    model.eval()
    assert torch.equal(model(x), model(x))
