from __future__ import annotations

import pytest
import torch
from torch import nn

from qatlab.errors import ConfigError
from qatlab.models import LeNet


def test_outputs_and_names_are_those_of_the_n2d2_network() -> None:
    model = LeNet(10, 1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert layers == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")][3:]


def test_parameters_by_hand() -> None:
    convolutions = 6 * 25 + 16 * 6 * 25 + 120 * 16 * 25
    norms = 2 * (6 + 16 + 120)
    expected = convolutions + norms + 120 * 84 + 84 * 10
    assert sum(p.numel() for p in LeNet(10, 1).parameters()) == expected == 61_754
    assert sum(p.numel() for p in LeNet(10, 1, bias=True).parameters()) == expected + 84 + 10
    more = 2 * 6 * 25 + 84 * 90  # two more channels of the images, 90 more classes
    assert sum(p.numel() for p in LeNet(100, 3).parameters()) == expected + more


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_acts_in_training_only(dropout: float) -> None:
    model = LeNet(10, 1, dropout=dropout)
    assert model.dropout.p == dropout
    x = torch.randn(4, 1, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert torch.equal(model(x), model(x)) == (dropout == 0)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_range_is_refused(dropout: float) -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout="):
        LeNet(10, 1, dropout=dropout)
