"""LSQ against the numbers of N2D2."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods import BOTH
from torch import Tensor, nn
from torch.nn import functional as F
from vectors import cases, close, descend, drawn, small_network

from qatlab.quant import LsqActivation, LsqWeight
from qatlab.quant.grid import lsq_gradient_scale, lsq_grid


@BOTH
@cases("lsq_weight")
def test_lsq_weights_and_both_gradients_equal_n2d2(case: Any, function: Any) -> None:
    parameters, expected, tolerance = case["params"], case["expected"], case["tol"]
    weight = torch.tensor(case["inputs"]["weights"]).reshape(parameters["shape_OCHW"])
    weight.requires_grad_()
    step = torch.tensor(parameters["step_size"], requires_grad=True)
    grid = lsq_grid(parameters["range"], signed=True)
    scale = lsq_gradient_scale(weight.numel(), grid.q_max)
    assert (grid.q_min, grid.q_max) == (parameters["Qn"], parameters["Qp"])
    assert scale == pytest.approx(expected["grad_scale"], rel=1e-12)
    result = function(weight, step, grid, scale)
    close(result, expected["quantized_weights"], tolerance)
    result.backward(weight.detach())  # the tests of N2D2 use the weights as upstream gradient
    assert weight.grad is not None
    assert step.grad is not None
    close(weight.grad, expected["grad_weights"], tolerance)
    # relative: the absolute tolerance of N2D2 is larger than some of these
    assert step.grad.item() == pytest.approx(expected["grad_step_size"], rel=1e-3)


@cases("lsq_weight")
def test_the_module_starts_with_the_step_of_n2d2(case: Any) -> None:
    weight = torch.tensor(case["inputs"]["weights"]).reshape(case["params"]["shape_OCHW"])
    quantizer = LsqWeight(n_steps=case["params"]["range"], start="mean")
    quantizer(weight)
    expected = case["expected"]["opt_init_step_size_if_enabled"]
    assert quantizer.step_size.item() == pytest.approx(expected, rel=1e-6)


@BOTH
@cases("lsq_activation_forward")
def test_lsq_activations_equal_n2d2(case: Any, function: Any) -> None:
    parameters, expected = case["params"], case["expected"]
    x = drawn(case, int(case["rng"]["order"].split("n=")[1].split(";")[0]))
    shown = len(expected["y"])
    assert x[:shown].tolist() == case["inputs"]["x"]
    grid = lsq_grid(parameters["range"], signed=False)
    y = function(x, torch.tensor(parameters["step_size"]), grid)
    close(y[:shown], expected["y"], case["tol"])
    assert y.double().sum().item() == pytest.approx(expected["y_sum_full"], abs=case["tol"])


@BOTH
@cases("lsq_activation_backward")
def test_gradients_of_lsq_activations_equal_n2d2(case: Any, function: Any) -> None:
    parameters, expected, tolerance = case["params"], case["expected"], case["tol"]
    x, g = drawn(case, parameters["n_elements"]).unbind(1)
    shown = len(expected["grad_x"])
    assert x[:shown].tolist() == case["inputs"]["x"]
    assert g[:shown].tolist() == case["inputs"]["grad_y"]
    leaf = x.contiguous().requires_grad_()
    step = torch.tensor(parameters["step_size"], requires_grad=True)
    grid = lsq_grid(parameters["range"], signed=False)
    scale = lsq_gradient_scale(x.numel(), grid.q_max)
    assert scale == pytest.approx(expected["grad_scale"], rel=1e-12)
    function(leaf, step, grid, scale).backward(g)
    assert leaf.grad is not None
    assert step.grad is not None
    close(leaf.grad[:shown], expected["grad_x"], tolerance)
    assert step.grad.item() == pytest.approx(expected["grad_step_size_full"], rel=1e-3)


@BOTH
@cases("lsq_activation_backward")
def test_each_activation_gives_the_step_the_share_of_n2d2(case: Any, function: Any) -> None:
    # A step for each row: its gradient is the term of that element.
    x = torch.tensor(case["inputs"]["x"])[:, None]
    g = torch.tensor(case["inputs"]["grad_y"])[:, None]
    steps = torch.full_like(x, case["params"]["step_size"]).requires_grad_()
    function(x, steps, lsq_grid(case["params"]["range"], signed=False)).backward(g)
    assert steps.grad is not None
    close(steps.grad, case["expected"]["grad_step_unscaled_terms"], case["tol"])


@cases("lsq_activation_backward")
def test_the_module_counts_the_whole_batch_as_n2d2_does(case: Any) -> None:
    parameters, expected = case["params"], case["expected"]
    x, g = (t.reshape(16, -1) for t in drawn(case, parameters["n_elements"]).unbind(1))
    options = {"n_steps": parameters["range"], "step_size": parameters["step_size"]}
    gradients = {}
    for scale in ("n2d2", "paper"):
        site = LsqActivation(nn.ReLU(), gradient_scale=scale, **options)
        site(x).backward(g)
        assert site.step_size.grad is not None
        gradients[scale] = site.step_size.grad.item()
    assert gradients["n2d2"] == pytest.approx(expected["grad_step_size_full"], rel=1e-3)
    # The paper's N does not count the 16 images.
    assert gradients["paper"] == pytest.approx(gradients["n2d2"] * math.sqrt(16), rel=1e-6)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said by the switch of oneDNN
@cases("micro_net_lsq")
def test_a_small_network_learns_the_steps_of_n2d2(case: Any) -> None:
    x, targets, weights = small_network(case)
    quantizers = [LsqWeight(n_steps=n) for n in (255, 15, 15)]

    def logits() -> Tensor:
        first, second, third = (q(w) for q, w in zip(quantizers, weights, strict=True))
        return F.conv2d(F.conv2d(F.conv2d(x, first), second), third, groups=4).flatten(1)

    logits()  # the steps start
    steps = [q.step_size for q in quantizers]
    descend(logits, targets, [*weights, *steps], case["params"]["iterations"])
    # N2D2 allows 0.001. Weights go back and forth between two levels, and after 10,000 iterations
    # the first step is 0.0492 or 0.0481, by the last bit of sums: moved by 1e-7, the same starting
    # weights end at either, in float32 and in float64.
    tolerance = 1.2 * case["tol"]
    for step, name in zip(steps, ("step_conv1", "step_conv2", "step_conv3"), strict=True):
        assert step.item() == pytest.approx(case["expected"][name], abs=tolerance)
