"""Numbers that N2D2's own tests assert, or that N2D2 wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from methods import cg_pact, cg_pact_eager
from torch import Tensor
from torch.nn import functional as F

from qatlab.quant.eager import sat_weight_eager
from qatlab.quant.functional import sat_weight

VECTORS = Path(__file__).parents[4] / "shared" / "reference" / "n2d2_vectors.json"
CASES = json.loads(VECTORS.read_text())["cases"] if VECTORS.exists() else []
GRID = {
    "Default": "default",
    "Symmetric": "symmetric",
    "Asymmetric": "asymmetric",
    "FullRange": "full_range",
}
CG_PACT = pytest.mark.parametrize("function", [cg_pact, cg_pact_eager])
SAT_WEIGHT = pytest.mark.parametrize("function", [sat_weight, sat_weight_eager])


def cases(kind: str) -> Any:
    found = [pytest.param(c, id=c["id"]) for c in CASES if c["kind"] == kind]
    missing = pytest.mark.skip(reason="the reference vectors of ../shared are not here")
    return pytest.mark.parametrize("case", found or [pytest.param(None, marks=missing)])


def close(actual: Tensor, expected: list[float], tolerance: float) -> None:
    torch.testing.assert_close(
        actual.detach().flatten(), torch.tensor(expected), rtol=0, atol=tolerance
    )


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
    inputs, expected = case["inputs"], case["expected"]
    x = torch.tensor(inputs["input_batch"]).reshape(2, 1, 5, 5) / 255
    targets = torch.tensor(inputs["targets"])
    weights = [
        torch.tensor(inputs[name]).reshape(shape).requires_grad_()
        for name, shape in (
            ("conv1", (1, 1, 3, 3)),
            ("conv2", (4, 1, 1, 1)),
            ("conv3_depthwise", (4, 1, 3, 3)),
        )
    ]
    alphas = [torch.tensor(8.0, requires_grad=True) for _ in range(3)]
    parameters = [*weights, *alphas]

    def quantized(weight: Tensor, n_steps: int) -> Tensor:
        return sat_weight_eager(weight, n_steps, "default", True, False)

    # For 50 numbers torch's plain convolution takes a third of the time of oneDNN's, and the
    # gradients need no optimizer: 10,000 iterations are all overhead.
    with torch.backends.mkldnn.flags(enabled=False):
        for _ in range(case["params"]["iterations"]):
            y = cg_pact_eager(x, alphas[0], 255)
            y = cg_pact_eager(F.conv2d(y, quantized(weights[0], 255)), alphas[1], 15)
            y = cg_pact_eager(F.conv2d(y, quantized(weights[1], 15)), alphas[2], 15)
            y = F.conv2d(y, quantized(weights[2], 15), groups=4).flatten(1)
            gradients = torch.autograd.grad(F.cross_entropy(y, targets), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.01)
    for alpha, name in zip(alphas, ("alpha_act1", "alpha_conv1", "alpha_conv2"), strict=True):
        assert alpha.item() == pytest.approx(expected[name], abs=case["tol"])
