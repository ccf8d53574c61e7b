"""Learned values are looked at where they become integers: what is no number is refused."""

from __future__ import annotations

import copy
import logging
import math
import re
from typing import Any

import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, PIXELS, convert
from torch import nn

from qatlab.deploy.integer import compute, lower
from qatlab.deploy.obstacles import obstacles
from qatlab.errors import ConfigError, QatlabError


def at(model: nn.Module, path: str) -> torch.Tensor:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return tensors[path].data


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("sat", "2.alpha", "2: its learned alpha is {}; it has no levels"),
        ("dorefa", "5.alpha", "5: its learned alpha is {}; it has no levels"),
        ("lsq", "5.step_size", "5: its learned step_size is {}; it has no levels"),
        ("lsq_plus", "2.step_size", "2: its learned step_size is {}; it has no levels"),
        ("lsq", "4.weight_quantizer.step_size", "4: its weights, or the steps that they have lea"),
    ],
)
def test_a_step_that_makes_no_levels_is_refused(
    method: str, path: str, words: str, value: float
) -> None:
    model = convert(NETWORKS["chain"](), method)
    at(model, path).fill_(value)
    assert_refused(model, words.format(value))


@pytest.mark.parametrize(
    ("method", "path", "value", "words"),
    [
        ("lsq_plus", "2.offset", math.nan, "2: its learned offset is nan: no codes stand for"),
        ("lsq_plus", "5.offset", math.inf, "5: its learned offset is inf: no codes stand for"),
        ("sat", "1.running_var", -1.0, "2: its statistics or parameters are not finite"),
        ("sat", "1.running_mean", math.nan, "2: its statistics or parameters are not fi"),
        ("sat", "1.weight", math.inf, "2: its statistics or parameters are not finite"),
        ("dorefa", "4.weight", math.nan, "4: its weights are not finite; lower the learning rate"),
        ("sat", "4.weight", math.nan, "4: its weights are not finite; lower the learning rate"),
        ("lsq", "9.weight", math.nan, "9: its weights, or the steps that they have learned, are n"),
    ],
)
def test_a_value_that_is_no_number_is_refused(
    method: str, path: str, value: float, words: str
) -> None:
    model = convert(NETWORKS["chain"](), method)
    at(model, path).view(-1)[0] = value
    assert_refused(model, words)


def assert_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(QatlabError, match=f"^{re.escape(words)}") as caught:
        lower(model, [PIXEL] * 3, EXAMPLE)
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, ConfigError):  # else not even an image can be computed
        assert all(own[0].reason == str(caught.value) for own in obstacles(model).values())


@pytest.mark.parametrize(
    ("method", "path"), [("lsq", "2.step_size"), ("sat", "5.alpha"), ("lsq_plus", "2.step_size")]
)
def test_a_step_below_0_is_reported_and_its_size_is_used(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = convert(NETWORKS["chain"](), method)
    right = copy.deepcopy(model)
    at(model, path).neg_()
    images = PIXELS.double() / 255
    assert torch.equal(model(images), right(images))  # training takes the size, too
    with caplog.at_level(logging.WARNING):
        found = compute(lower(model, [PIXEL] * 3, EXAMPLE), PIXELS)
    site, _, learned = path.partition(".")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{site}: its learned {learned} is -")
    expected = compute(lower(right, [PIXEL] * 3, EXAMPLE), PIXELS)
    assert torch.equal(found.outputs, expected.outputs)


def test_a_step_of_weights_below_0_is_its_size() -> None:
    model: Any = convert(NETWORKS["chain"](), "lsq")
    expected = model(PIXELS.double() / 255)
    at(model, "4.weight_quantizer.step_size").neg_()
    assert torch.equal(model(PIXELS.double() / 255), expected)
    found = compute(lower(model, [PIXEL] * 3, EXAMPLE), PIXELS).outputs
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
