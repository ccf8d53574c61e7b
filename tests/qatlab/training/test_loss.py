from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.errors import ConfigError
from qatlab.training.loss import (
    CrossEntropy,
    LogisticCrossEntropy,
    Loss,
    Reconstruction,
    Several,
    SquaredError,
    as_tuple,
    check_outputs,
    losses_of,
)

LABELS = torch.tensor([2, 0, -1, 1])
IMAGES = torch.zeros(4, 1, 2, 2)


def outputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().numpy().astype(np.float64)


def onehot(labels: Tensor, classes: int) -> NDArray[np.float64]:
    return (labels.numpy()[:, None] == np.arange(classes)).astype(np.float64)


def assert_close(ours: Tensor, expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_and_its_gradient(smoothing: float) -> None:
    y = outputs(4, 3)
    losses = CrossEntropy(smoothing)(y, IMAGES, LABELS)
    p = np.exp(numbers(y)) / np.exp(numbers(y)).sum(1, keepdims=True)
    counts = (LABELS.numpy() >= 0)[:, None]
    targets = ((1 - smoothing) * onehot(LABELS, 3) + smoothing / 3) * counts
    assert_close(losses, -(targets * np.log(p)).sum(1))
    losses.mean().backward()
    assert y.grad is not None
    assert_close(y.grad, (p - targets) * counts / 4)  # p - onehot, over the whole batch


def test_squared_error_and_its_gradient() -> None:
    y = outputs(4, 3)
    losses = SquaredError(target_value=0.8, default_value=-0.1)(y, IMAGES, LABELS)
    counts = (LABELS.numpy() >= 0)[:, None]
    targets = np.where(onehot(LABELS, 3) == 1, 0.8, -0.1)
    errors = (targets - numbers(y)) * counts
    assert_close(losses, (errors**2).sum(1) / 2)
    losses.mean().backward()
    assert y.grad is not None
    assert_close(y.grad, -errors / 4)


def test_squared_error_of_a_single_output() -> None:
    loss, labels = SquaredError(0.9, 0.2, 0.6), torch.tensor([1, 0, 1, -1])
    y = torch.tensor([[0.61], [0.7], [0.6], [5.0]])
    losses = loss(y, IMAGES, labels)
    assert losses.tolist() == pytest.approx([0.29**2 / 2, 0.5**2 / 2, 0.3**2 / 2, 0.0])
    assert loss.answers(y).argmax(1).tolist() == [1, 1, 0, 1]  # above the threshold, not at it
    assert loss.correct(y, labels) == 1
    assert loss.counts(labels).tolist() == [True, True, True, False]


def test_logistic_cross_entropy_and_its_gradient() -> None:
    y = outputs(4, 3)
    losses = LogisticCrossEntropy(target_value=0.9, default_value=0.1)(y, IMAGES, LABELS)
    counts = (LABELS.numpy() >= 0)[:, None]
    t, p = np.where(onehot(LABELS, 3) == 1, 0.9, 0.1), 1 / (1 + np.exp(-numbers(y)))
    assert_close(losses, -((t * np.log(p) + (1 - t) * np.log(1 - p)) * counts).sum(1))
    losses.mean().backward()
    assert y.grad is not None
    assert_close(y.grad, -(t - p) * counts / 4)


def test_the_threshold_of_a_single_logistic_output_is_one_of_its_probability() -> None:
    loss = LogisticCrossEntropy(binary_threshold=0.8)
    y = torch.tensor([0.79, 0.81]).logit()[:, None]
    assert loss.answers(y).argmax(1).tolist() == [0, 1]
    losses = loss(y, IMAGES, torch.tensor([1, 0]))
    assert_close(losses, -np.log([0.79, 0.19]))


def test_reconstruction_and_its_gradient() -> None:
    y, images = outputs(4, 1, 2, 2), torch.rand(4, 1, 2, 2)
    loss = Reconstruction()
    losses = loss(y, images, LABELS)
    errors = numbers(images) - numbers(y)
    assert_close(losses, (errors**2).sum((1, 2, 3)) / 2)
    losses.mean().backward()
    assert y.grad is not None
    assert_close(y.grad, -errors / 4)
    assert not loss.classifies
    assert (loss.correct(y, LABELS), loss.counts(LABELS).sum()) == (0, 4)
    assert loss.answers(y) is y


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), LogisticCrossEntropy()])
def test_the_highest_output_is_the_answer_and_images_without_a_label_are_left_out(
    loss: Loss,
) -> None:
    y = torch.eye(3)[[2, 1, 0, 1]]
    assert loss.classifies
    assert loss.answers(y).argmax(1).tolist() == [2, 1, 0, 1]
    assert loss.correct(y, LABELS) == 2
    assert loss.counts(LABELS).tolist() == [True, True, False, True]
    assert loss(y, IMAGES, LABELS)[2] == 0


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(), LogisticCrossEntropy()])
def test_outputs_of_one_pixel_are_as_good_as_a_vector(loss: Loss) -> None:
    y = outputs(4, 3)
    spatial = y[:, :, None, None]
    loss.check(spatial, IMAGES, 3)
    assert torch.equal(loss(spatial, IMAGES, LABELS), loss(y, IMAGES, LABELS))
    assert loss.correct(spatial, LABELS) == loss.correct(y, LABELS)


def fails(told: str, loss: Any, *given: Tensor, classes: int = 3) -> None:
    with pytest.raises(ConfigError, match=told):
        check_outputs(losses_of(loss), given, IMAGES, classes)


def test_outputs_that_do_not_fit_are_reported() -> None:
    y, image = outputs(4, 3), outputs(4, 1, 2, 2)
    for loss in (CrossEntropy(), SquaredError(), LogisticCrossEntropy()):
        check_outputs(losses_of(loss), (y,), IMAGES, 3)
        fails(r"^loss: the network has 3 outputs and the data 4 classes; ", loss, y, classes=4)
        fails("has 1 output and the data 3 classes", loss, outputs(4, 1))
    check_outputs((SquaredError(),), (outputs(4, 1),), IMAGES, 2)
    fails("1 output and the data 2", CrossEntropy(), outputs(4, 1), classes=2)
    check_outputs((Reconstruction(),), (image,), IMAGES, 3)
    told = r"^loss: an output of shape 4x1x1 cannot be compared with images of shape 1x2x2; "
    fails(told, Reconstruction(), outputs(4, 4, 1, 1))
    two = Several([CrossEntropy(), Reconstruction()])
    check_outputs(losses_of(two), (y, image), IMAGES, 3)
    fails("^loss is for 2 outputs, and the network has 1; loss=several", two, y)
    fails("^loss is for 1 output, and the network has 2; loss=several", CrossEntropy(), y, y)
    fails("cannot be compared", two, image, y, classes=4)


@pytest.mark.parametrize("losses", [[], [3], [CrossEntropy(), "x"]])
def test_several_needs_losses(losses: list[Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"^loss\.losses=.* is wrong\. Accepted: a list of losses"
    ):
        Several(losses)
    with pytest.raises(ConfigError, match=r"^loss\._target_ makes a str, not a Loss"):
        losses_of("x")


def test_bad_settings_are_reported() -> None:
    with pytest.raises(
        ConfigError, match=r"^loss\.label_smoothing=1\.5 is wrong\. Accepted: a number from 0"
    ):
        CrossEntropy(1.5)
    with pytest.raises(ConfigError, match=r"^loss\.binary_threshold=1 is wrong\. Accepted: a pr"):
        LogisticCrossEntropy(binary_threshold=1)
    with pytest.raises(
        ConfigError,
        match=r"^loss\.target_value=0.0 is wrong\. Accepted: a number above loss\.default",
    ):
        SquaredError(target_value=0.0)


def test_outputs_become_a_tuple_in_float32() -> None:
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    assert [y.dtype for y in as_tuple(half)] == [torch.float32]
    assert [y.dtype for y in as_tuple((half, half))] == [torch.float32] * 2
