"""SAT against the numbers of N2D2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods import cg_pact, cg_pact_fused
from torch import Tensor
from torch.nn import functional as F
from vectors import cases, close, descend, small_network

from qatlab.quant.dispatch import sat_weight_fused
from qatlab.quant.functional import sat_weight

GRID = {
    "Default": "default",
    "Symmetric": "symmetric",
    "Asymmetric": "asymmetric",
    "FullRange": "full_range",
}
CG_PACT = pytest.mark.parametrize("function", [cg_pact, cg_pact_fused])
SAT_WEIGHT = pytest.mark.parametrize("function", [sat_weight, sat_weight_fused])


@SAT_WEIGHT
@cases("sat_weight")
def test_sat_weights_and_their_gradient_equal_n2d2(case: Any, function: Any) -> None:
    parameters, expected = case["params"], case["expected"]
    # N2D2 writes a shape as (outputs, channels, side of a square kernel)
    n_out, n_in, side = parameters["shape_OCHW"][:3]
    shape = (n_out, n_in, side, side)
    weight = torch.tensor(case["inputs"]["weights"]).reshape(shape).requires_grad_()
    result = function(
        weight,
        int(parameters["range"]),
        GRID[parameters["quant_mode"]],
        parameters["apply_quantization"],
        parameters["apply_scaling"],
    )
    close(result, expected["quantized_weights"], case["tol"])
    result.backward(weight.detach())  # the tests of N2D2 use the weights as upstream gradient
    assert weight.grad is not None
    close(weight.grad, expected["grad_weights"], case["tol"])


@SAT_WEIGHT
@cases("sat_weight_artifact")
def test_sat_weights_equal_those_n2d2_has_saved(case: Any, function: Any) -> None:
    weight = torch.tensor(case["inputs"]["weights"]).reshape(case["params"]["shape"][0], 1, -1)
    result = function(weight, case["params"]["range"], "default", True, False)
    close(result, case["expected"]["quantized_weights"], case["tol"])


@CG_PACT
@cases("sat_activation_forward")
def test_cg_pact_equals_n2d2(case: Any, function: Any) -> None:
    alpha = torch.tensor(case["params"]["alpha"])
    result = function(torch.tensor(case["inputs"]["x"]), alpha, int(case["params"]["range"]))
    close(result, case["expected"]["y"], case["tol"])


@CG_PACT
@cases("sat_activation_backward")
def test_gradients_of_cg_pact_equal_n2d2(case: Any, function: Any) -> None:
    alpha = torch.tensor(case["params"]["alpha"], requires_grad=True)
    x = torch.tensor(case["inputs"]["x"], requires_grad=True)
    function(x, alpha, int(case["params"]["range"])).backward(
        torch.tensor(case["inputs"]["grad_y"])
    )
    assert x.grad is not None
    assert alpha.grad is not None
    close(x.grad, case["expected"]["grad_x"], case["tol"])
    assert alpha.grad.item() == pytest.approx(
        case["expected"]["grad_alpha_sum_shown"], abs=case["tol"]
    )


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said by the switch of oneDNN
@cases("micro_net_sat")
def test_a_small_network_learns_the_alphas_of_n2d2(case: Any) -> None:
    x, targets, weights = small_network(case)
    alphas = [torch.tensor(8.0, requires_grad=True) for _ in range(3)]

    def quantized(weight: Tensor, n_steps: int) -> Tensor:
        return sat_weight_fused(weight, n_steps, "default", True, False)

    def logits() -> Tensor:
        y = cg_pact_fused(x, alphas[0], 255)
        y = cg_pact_fused(F.conv2d(y, quantized(weights[0], 255)), alphas[1], 15)
        y = cg_pact_fused(F.conv2d(y, quantized(weights[1], 15)), alphas[2], 15)
        return F.conv2d(y, quantized(weights[2], 15), groups=4).flatten(1)

    descend(logits, targets, [*weights, *alphas], case["params"]["iterations"])
    for alpha, name in zip(alphas, ("alpha_act1", "alpha_conv1", "alpha_conv2"), strict=True):
        assert alpha.item() == pytest.approx(case["expected"][name], abs=case["tol"])
