"""What a training makes small, and which class of an image an output stands for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError, wrong
from qatlab.quant import Phase, quantizers, set_phase
from qatlab.quant.evaluating import evaluating
from qatlab.training.lr_policy import check_number

IGNORED = -1  # label of an image that has none


class Loss(ABC):
    """The loss of one output of a network, image by image; a training descends their mean.

    Attributes:
        classifies: whether the output stands for a class. If not, there is no accuracy.
    """

    classifies: ClassVar[bool] = True

    @abstractmethod
    def check(self, output: Tensor, images: Tensor, classes: int) -> None:
        """Raise a ConfigError for a network that does not fit.

        Args:
            output: of the network for ``images``.
            images: ``(N, C, H, W)``, as given to the network.
            classes: of the data.
        """

    @abstractmethod
    def __call__(self, output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, ``(N,)``; 0 for those that do not count.

        Args:
            output: of the network, in float32.
            images: ``(N, C, H, W)``, as given to the network.
            labels: ``(N,)``; -1 for an image that has none.
        """

    def answers(self, output: Tensor) -> Tensor:
        """Return ``(N, classes)``, the highest at the class that the output stands for.

        Of a loss that does not classify: the output as it is.
        """
        return output.flatten(1)

    def counts(self, labels: Tensor) -> Tensor:
        """Tell which images count in means, ``(N,)``."""
        return labels != IGNORED

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the number of images whose output stands for their label."""
        return (self.answers(output).argmax(1) == labels).sum()


class CrossEntropy(Loss):
    """Cross entropy of the softmax of the outputs.

    Args:
        label_smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        check_number("loss.label_smoothing", label_smoothing, highest=1.0)
        self.label_smoothing = label_smoothing

    def check(self, output: Tensor, images: Tensor, classes: int) -> None:
        """See the base class."""
        _check_width(output, classes, fits=(classes,))

    def __call__(self, output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        return F.cross_entropy(
            output.flatten(1),
            labels,
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
        )


class TargetLoss(Loss):
    """A loss that compares each output with one value at the label and another elsewhere.

    Two classes may share one output: its target is the first value for label 1, the second for 0.

    Args:
        target_value: at the label.
        default_value: elsewhere.
        binary_threshold: a single output above it stands for class 1.
    """

    def __init__(
        self, target_value: float = 1.0, default_value: float = 0.0, binary_threshold: float = 0.5
    ) -> None:
        if not target_value > default_value:
            above = f"a number above loss.default_value={default_value}"
            raise wrong("loss.target_value", target_value, above)
        self.target_value = target_value
        self.default_value = default_value
        self.binary_threshold = binary_threshold

    @abstractmethod
    def of_outputs(self, values: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each output; all ``(N, outputs)``."""

    def check(self, output: Tensor, images: Tensor, classes: int) -> None:
        """See the base class."""
        _check_width(output, classes, fits=(1, 2) if classes == 2 else (classes,))

    def __call__(self, output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        values = output.flatten(1)
        width = values.shape[1]
        of_class = torch.arange(width, device=labels.device) + (width == 1)
        is_target = labels[:, None] == of_class
        targets = torch.where(is_target, self.target_value, self.default_value)
        return self.of_outputs(values, targets).sum(1) * self.counts(labels)

    def answers(self, output: Tensor) -> Tensor:
        """See the base class; a single output competes with the threshold."""
        values = output.flatten(1)
        if values.shape[1] > 1:
            return values
        return torch.cat([torch.full_like(values, self.binary_threshold), values], 1)


class SquaredError(TargetLoss):
    """Half the squared distance of the outputs to their targets.

        1/2 * sum_c (target_c - y_c)^2

    Source: the targets of N2D2; behind anything but a function with loss, its error signal
    ``target - y`` is the descent of this.
    """

    def of_outputs(self, values: Tensor, targets: Tensor) -> Tensor:
        """See the base class."""
        return 0.5 * (targets - values).square()


class LogisticCrossEntropy(TargetLoss):
    """Cross entropy of each output's own probability, its logistic function, with its target.

        -sum_c (target_c * log(p_c) + (1 - target_c) * log(1 - p_c)),   p_c = 1 / (1 + exp(-y_c))

    Source: the targets of N2D2; behind ``LogisticWithLoss`` its error signal ``target - p`` is the
    descent of this. The threshold of a single output is one of p.
    """

    def __init__(
        self, target_value: float = 1.0, default_value: float = 0.0, binary_threshold: float = 0.5
    ) -> None:
        super().__init__(target_value, default_value)
        if not 0 < binary_threshold < 1:
            raise wrong("loss.binary_threshold", binary_threshold, "a probability in (0, 1)")
        self.binary_threshold = math.log(binary_threshold / (1 - binary_threshold))  # of y

    def of_outputs(self, values: Tensor, targets: Tensor) -> Tensor:
        """See the base class."""
        return F.binary_cross_entropy_with_logits(values, targets, reduction="none")


class Reconstruction(Loss):
    """Half the squared distance of the output to the images that the network was given."""

    classifies = False

    def check(self, output: Tensor, images: Tensor, classes: int) -> None:
        """See the base class."""
        if output.shape != images.shape:
            raise ConfigError(
                f"loss: an output of shape {_shape(output)} cannot be compared with images of "
                f"shape {_shape(images)}; reconstruction needs a network that returns images."
            )

    def __call__(self, output: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """See the base class."""
        return 0.5 * (images - output).square().flatten(1).sum(1)

    def answers(self, output: Tensor) -> Tensor:
        """See the base class."""
        return output

    def counts(self, labels: Tensor) -> Tensor:
        """All: no label is needed."""
        return torch.ones_like(labels, dtype=torch.bool)

    def correct(self, output: Tensor, labels: Tensor) -> Tensor:
        """None is."""
        return torch.zeros_like(labels).sum()


class Several:
    """A loss for each output of a network; their sum is descended, the first one is scored.

    Args:
        losses: in the order of the outputs.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        if not losses or not all(isinstance(loss, Loss) for loss in losses):
            accepted = "a list of losses as in conf/loss, one for each output of the network"
            raise wrong("loss.losses", losses, accepted)
        self.losses = tuple(losses)


def losses_of(loss: object) -> tuple[Loss, ...]:
    """Return the loss of each output; raise a ConfigError for what is none."""
    if isinstance(loss, Several):
        return loss.losses
    if isinstance(loss, Loss):
        return (loss,)
    raise ConfigError(f"loss._target_ makes a {type(loss).__name__}, not a Loss.")


def check_classes(classes: int) -> None:
    """Raise a ConfigError unless there are classes that a network can tell apart."""
    if classes < 2:
        raise ConfigError(
            f"data.source has {_count(classes, 'class')}. Accepted: images of two classes or more, "
            "or loss=reconstruction, which needs no classes."
        )


def check_outputs(losses: Sequence[Loss], returned: object, images: Tensor, classes: int) -> None:
    """Raise a ConfigError unless what a network returns for ``images`` suits its losses."""
    outputs: Any = returned if isinstance(returned, (tuple, list)) else (returned,)
    for i, output in enumerate(outputs):
        where = "" if output is returned else f"a {type(returned).__name__} whose item {i} is "
        what = _no_output(output, len(images))
        if what:
            raise ConfigError(
                f"model: the network returns {where}{what}; let its forward return a tensor "
                "(images, ...), or a tuple of such tensors"
            )
    if len(losses) != len(outputs):
        raise ConfigError(
            f"loss is for {_count(len(losses), 'output')}, and the network has {len(outputs)}; "
            "loss=several takes a list with a loss for each output."
        )
    for loss, output in zip(losses, as_tuple(outputs), strict=True):
        loss.check(output, images, classes)


def check_network(losses: Sequence[Loss], model: nn.Module, images: Tensor, classes: int) -> None:
    """Raise a ConfigError unless a network gives its losses what they need for ``images``."""
    if losses[0].classifies:
        check_classes(classes)
    phases = [(quantizer, quantizer.phase) for quantizer in quantizers(model)]
    set_phase(model, Phase.FLOAT)  # quantizers may have no values to start with yet
    with evaluating(model), torch.no_grad():
        returned = model(images)
    for quantizer, phase in phases:
        quantizer.phase = phase
    check_outputs(losses, returned, images, classes)


def _no_output(output: object, images: int) -> str:
    """Return what an output is if it is none that a loss can take, "" if it is one."""
    if isinstance(output, Tensor):
        fits = output.ndim > 1 and len(output) == images
        return (
            "" if fits else f"a tensor of shape {tuple(output.shape)} for {_count(images, 'image')}"
        )
    if isinstance(output, Mapping):
        return f"a dictionary of {', '.join(map(repr, output)) or 'nothing'}"
    return "None" if output is None else f"a {type(output).__name__}"


def as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what a network gives, one output or several, as a tuple in float32."""
    if isinstance(outputs, Tensor):
        return (outputs.float(),)
    return tuple(output.float() for output in outputs)


def _check_width(output: Tensor, classes: int, fits: tuple[int, ...]) -> None:
    width = output.flatten(1).shape[1]
    if width not in fits:
        raise ConfigError(
            f"loss: the network has {_count(width, 'output')} and the data {classes} classes; give "
            "it one output for each class."
        )


def _shape(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
