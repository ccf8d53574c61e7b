from __future__ import annotations

import copy
import math

import pytest
import torch
from candidate_networks import images, residual
from torch.nn import functional as F

from qatlab.mixed_precision import Tensor, loss_of, measured, second_order

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def loss(outputs: torch.Tensor, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


@pytest.mark.parametrize("convolved", [False, True])  # what is added up is kept for both operands
@pytest.mark.parametrize("start", [None, "mse"])
def test_what_is_measured_from_a_tensor_on_is_what_the_whole_network_computes(
    start: str | None, convolved: bool
) -> None:
    candidates, _ = residual([2, 4, 8], [2, 8], start, convolved=convolved)
    batches = [(images(2), LABELS), (images(3), LABELS)]
    found = measured(candidates, batches, loss)
    highest = {tensor: max(own) for tensor, own in candidates.choices.widths.items()}
    reference, _ = loss_of(candidates, highest, batches, loss)
    assert found.reference == pytest.approx(reference, abs=1e-12)
    assert found.images == 12
    for tensor, widths in candidates.choices.widths.items():
        largest = 0.0
        for bits in sorted(widths, reverse=True):
            changed, _ = loss_of(candidates, {**highest, tensor: bits}, batches, loss)
            largest = max(largest, changed - reference)  # a wider one is never worse
            assert found.losses[tensor, bits] == pytest.approx(largest, abs=1e-9)
    assert max(found.losses.values()) > 1e-3  # or nothing was measured


def test_the_network_is_left_with_its_highest_widths() -> None:
    candidates, _ = residual([2, 8], [2, 8])
    before = candidates.model(images(2))
    measured(candidates, [(images(2), LABELS)], loss)
    assert torch.equal(candidates.model(images(2)), before)


def test_the_second_order_of_a_weight_is_half_its_fisher_times_the_squared_change() -> None:
    candidates, _ = residual([2, 8], [8])
    batch = images(2), LABELS
    found = second_order(candidates, [batch], loss)
    tensor = Tensor("weight", "fc")
    layer = candidates.model.get_submodule("fc")
    narrow, wide = (candidates.quantizer(tensor, bits) for bits in (2, 8))
    # Of the last layer by hand: the gradient of the cross entropy is (p - y) times what it reads;
    # where 8 bits clip a weight, it passes none.
    read: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].detach()))
    outputs = candidates.model(batch[0]).detach()
    hook.remove()
    error = outputs.softmax(1) - F.one_hot(LABELS, 3)
    weight = layer.get_parameter("weight").detach()
    inside = (weight / wide.weight_step(weight)).abs() <= 127
    squared = ((error[:, :, None] * read[0][:, None, :]) ** 2).mean(0) * inside
    change = (narrow(weight) - wide(weight)).detach()
    assert found.losses[tensor, 2] == pytest.approx(0.5 * (squared * change**2).sum().item(), 1e-4)
    assert found.losses[tensor, 8] == 0


def leaf(output: torch.Tensor, to: list[torch.Tensor]) -> torch.Tensor:
    """Put what a site makes into a list, as what gradients end at, and return it."""
    to.append(output.detach().requires_grad_())
    return to[-1]


def test_the_second_order_of_a_site_is_that_of_what_it_changes() -> None:
    candidates, _ = residual([8], [2, 8])
    batch = images(2), LABELS
    found = second_order(candidates, [batch], loss)
    tensor = Tensor("activation", "relu1")
    site = candidates.model.get_submodule("relu1")
    total = 0.0
    for image, label in zip(*batch, strict=True):
        kept: list[torch.Tensor] = []
        seen: list[torch.Tensor] = []
        hooks = [
            site.register_forward_pre_hook(
                lambda _, inputs, to=seen: to.append(inputs[0].detach())
            ),
            site.register_forward_hook(lambda _, __, output, to=kept: leaf(output, to)),
        ]
        loss(candidates.model(image[None]), image[None], label[None]).sum().backward()
        for hook in hooks:
            hook.remove()
        wide, narrow = (candidates.quantizer(tensor, bits)(seen[0]) for bits in (8, 2))
        assert kept[0].grad is not None
        total += 0.5 * (kept[0].grad ** 2 * (narrow - wide).detach() ** 2).sum().item()
    assert found.losses[tensor, 2] == pytest.approx(total / 6, rel=1e-4)


def test_a_site_starts_behind_weights_of_the_highest_width() -> None:
    candidates, _ = residual([2, 8], [2, 8])
    tensor = Tensor("activation", "norm_site")
    low, high = (candidates.quantizer(tensor, bits).get_parameter("step_size") for bits in (2, 8))
    # Of the same values: 2 * mean(|x|) / sqrt(q_max), where LSQ starts.
    assert (low / high).item() == pytest.approx(math.sqrt(127 / 1), rel=1e-5)


def test_a_site_keeps_its_own_norm_when_its_quantizer_is_exchanged() -> None:
    candidates, _ = residual([8], [4, 8])
    model = copy.deepcopy(candidates.model)
    candidates.assign({Tensor("activation", "norm_site"): 4})
    changed = candidates.model(images(2))
    assert not torch.equal(changed, model(images(2)))
    candidates.assign({Tensor("activation", "norm_site"): 8})
    assert torch.equal(candidates.model(images(2)), model(images(2)))
