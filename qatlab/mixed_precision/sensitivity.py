"""What a network loses by the width of one weight or site: the increase of its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor as Numbers
from torch import fx, nn

from qatlab.mixed_precision.candidates import Candidates
from qatlab.mixed_precision.choices import Assignment, Choice, Choices, Tensor
from qatlab.quant.memory import add_inplace

Batch = tuple[Numbers, Numbers]  # images (N, C, H, W), labels (N,)
Loss = Callable[[Any, Numbers, Numbers], Numbers]  # outputs, images, labels: one number each


@dataclass(frozen=True)
class Sensitivity:
    """What was measured.

    Attributes:
        reference: mean loss with the highest width of each tensor.
        losses: increase of the mean loss by each choice alone, all others at their highest width;
            0 for the highest, and never less than that of a wider one.
        images: how many it was measured on.
    """

    reference: float
    losses: Mapping[Choice, float]
    images: int

    def of(self, assignment: Assignment) -> float:
        """Return the loss that the sum of all increases predicts."""
        return self.reference + sum(self.losses[choice] for choice in assignment.items())


@torch.no_grad()
def measured(
    candidates: Candidates,
    batches: Sequence[Batch],
    loss: Loss,
    advance: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Measure the increase of the loss by each choice alone, under fake quantization.

    Of each batch, what lies before the tensor in the graph is computed once for all choices.

    Args:
        candidates: the network.
        batches: images that it was not trained on, or was; see ``docs/mixed_precision.md``.
        loss: of outputs, images and labels: a number for each image.
        advance: is called after each choice of each batch.
    """
    highest = {tensor: max(widths) for tensor, widths in candidates.choices.widths.items()}
    candidates.assign(highest)
    total, sums = 0.0, dict.fromkeys(candidates.choices.all(), 0.0)
    graph = candidates.model
    assert isinstance(graph, fx.GraphModule)
    readers = _readers(graph)
    for images, labels in batches:
        base = _Pass(graph)
        outputs = base.run(images)
        reference = loss(outputs, images, labels).double().sum().item()
        total += reference
        for tensor, bits in sums:
            if bits != highest[tensor]:
                candidates.assign({tensor: bits})
                outputs = base.run_from(readers[tensor.name])
                changed = loss(outputs, images, labels).double().sum().item()
                sums[tensor, bits] += changed - reference
                candidates.assign({tensor: highest[tensor]})
            advance()
    count = sum(len(images) for images, _ in batches)
    losses = {choice: value / count for choice, value in sums.items()}
    return Sensitivity(total / count, _monotone(candidates.choices, losses), count)


@torch.no_grad()
def loss_of(
    candidates: Candidates, assignment: Assignment, batches: Sequence[Batch], loss: Loss
) -> tuple[float, float]:
    """Return mean loss and share of right answers with an assignment, interactions included."""
    candidates.assign(assignment)
    total = right = 0.0
    for images, labels in batches:
        outputs = candidates.model(images)
        total += loss(outputs, images, labels).double().sum().item()
        first = outputs if isinstance(outputs, Numbers) else outputs[0]
        right += (first.flatten(1).argmax(1) == labels).sum().item()
    count = sum(len(images) for images, _ in batches)
    return total / count, right / count


class _Pass(fx.Interpreter):
    """Computes a graph, and again from a node on, with what was computed before it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._order = list(graph.graph.nodes)
        self._values: dict[fx.Node, Any] = {}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Compute all nodes and keep their results."""
        result = super().run(*args, **kwargs)
        self._values = dict(self.env)
        return result

    def run_from(self, nodes: Sequence[fx.Node]) -> Any:
        """Compute these nodes and all that depends on them; return the outputs."""
        changed = set(nodes)
        self.env = dict(self._values)
        for node in self._order:
            if node in changed or not changed.isdisjoint(node.all_input_nodes):
                changed.add(node)
                self.env[node] = result = self.run_node(node)
                if node.op == "output":
                    return result
        return self._values[self._order[-1]]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Let no addition write over what is kept."""
        if target is add_inplace:
            args = (args[0].clone(), *args[1:])
        return super().call_function(target, args, kwargs)


def _monotone(choices: Choices, losses: Mapping[Choice, float]) -> dict[Choice, float]:
    """Return losses of which none is below that of a wider choice.

    Where a narrower one seems to be better, the difference is that of a few images, by chance.
    """
    found: dict[Choice, float] = {}
    for tensor, widths in choices.widths.items():
        largest = 0.0
        for bits in sorted(widths, reverse=True):
            found[tensor, bits] = largest = max(largest, losses[tensor, bits])
    return found


def _readers(graph: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Return the nodes that call each module, by its path."""
    found: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            found.setdefault(str(node.target), []).append(node)
    return found


def second_order(
    candidates: Candidates,
    batches: Sequence[Batch],
    loss: Loss,
    advance: Callable[[], None] = lambda: None,
) -> Sensitivity:
    """Estimate the same from one pass forward and backward for each image.

    Half the sum over all numbers of F * d^2: F is the diagonal of the empirical Fisher matrix at
    the highest widths, the mean of squared gradients of single images, and d what a width changes
    of the number. Rounding passes gradients straight through.

    Source: Zandonati et al. 2022 (FIT), arXiv:2210.08502, Eq. 4; here number by number instead of
    by traces.

    Args: see :func:`measured`; ``advance`` is called after each image.
    """
    choices = candidates.choices
    highest = {tensor: max(widths) for tensor, widths in choices.widths.items()}
    candidates.assign(highest)
    model, kept = candidates.model, dict[Tensor, tuple[Numbers, Numbers]]()
    sites = [tensor for tensor in choices.widths if tensor.part == "activation"]
    layers = [tensor for tensor in choices.widths if tensor.part == "weight"]

    def keep(tensor: Tensor) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Numbers], output: Numbers) -> None:
            output.retain_grad()
            kept[tensor] = inputs[0].detach(), output

        return hook

    hooks = [
        model.get_submodule(tensor.name).register_forward_hook(keep(tensor)) for tensor in sites
    ]
    sums = dict.fromkeys(choices.all(), 0.0)
    fisher = {t: torch.zeros_like(model.get_parameter(f"{t.name}.weight")) for t in layers}
    total, count = 0.0, 0
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            model.zero_grad()
            own = loss(model(image[None]), image[None], label[None]).sum()
            own.backward()  # type: ignore[no-untyped-call]
            total, count = total + own.item(), count + 1
            with torch.no_grad():
                for tensor in layers:
                    gradient = model.get_parameter(f"{tensor.name}.weight").grad
                    if gradient is not None:
                        fisher[tensor] += gradient**2
                for tensor, (read, output) in kept.items():
                    if output.grad is not None:
                        _add_of_site(candidates, sums, tensor, read, output.grad)
            advance()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    with torch.no_grad():
        for tensor in layers:
            weight = model.get_parameter(f"{tensor.name}.weight")
            exact = candidates.quantizer(tensor, highest[tensor])(weight)
            for bits in choices.widths[tensor]:
                change = candidates.quantizer(tensor, bits)(weight) - exact
                sums[tensor, bits] = 0.5 * (fisher[tensor] * change**2).sum().item()
    losses = {choice: value / count for choice, value in sums.items()}
    return Sensitivity(total / count, _monotone(choices, losses), count)


def _add_of_site(
    candidates: Candidates,
    sums: dict[Choice, float],
    tensor: Tensor,
    read: Numbers,
    gradient: Numbers,
) -> None:
    widths = candidates.choices.widths[tensor]
    exact = candidates.quantizer(tensor, max(widths)).forward(read)
    for bits in widths:
        change = candidates.quantizer(tensor, bits).forward(read) - exact
        sums[tensor, bits] += 0.5 * (gradient**2 * change**2).sum().item()
