"""What lowering has made so far, and what each tensor of the network is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from qatlab.deploy.integer.operations import Codes, Group, Operation, Shape, Sides
from qatlab.deploy.integer.values import Coded, Parts
from qatlab.errors import ConfigError
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.ops import written
from qatlab.quant.sites import paths_of
from qatlab.quant.trace import Measures

Made = Parts | tuple["Made", ...]  # of a node: a tensor, or several


class State:
    """Operations so far, and what each node has made.

    Args:
        model: the network.
        measures: of its nodes, for one image.
    """

    def __init__(self, model: fx.GraphModule, measures: Measures) -> None:
        self.measures, self.shapes = measures, measures.shapes
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.paths = paths_of(model.graph)
        self.values: dict[fx.Node, Made] = {}
        self.operations: dict[str, Operation] = {}
        self.codes: dict[str, Codes] = {}
        self.sites: dict[str, tuple[str, ...]] = {}
        self.zeros: dict[str, tuple[Coded, Sides]] = {}  # what has zeros around it, and how many
        self._names = {p for p, m in self.modules.items() if isinstance(m, ActivationQuantizer)}

    def free(self, name: str) -> str:
        """Return a name for an operation: this one, or one like it that is still free."""
        number, found = 0, name
        while found in self._names:
            number, found = number + 1, f"{name}_{number + 1}"
        self._names.add(found)
        return found

    def add(self, operation: Operation) -> str:
        """Append an operation; return its name."""
        self.operations[operation.name] = operation
        if (codes := operation.codes_of(self.codes)) is not None:
            self.codes[operation.name] = codes
        return operation.name

    def channels_of(self, name: str) -> int:
        """Return the number of channels, or of features, of an operation's result."""
        return self.shape_of(name)[0]

    def shape_of(self, name: str) -> Shape:
        """Return the shape of an operation's result for one image."""
        op = self.operations[name]
        return op.shape_of(*map(self.shape_of, op.inputs))

    def is_image(self, node: fx.Node) -> bool:
        """Tell whether a tensor is the image, moved by numbers at most, and read by no site."""
        return all(
            isinstance(value, Coded) and not self._from_a_site(value.name)
            for value in self.raw(node).values
        )

    def _from_a_site(self, name: str) -> bool:
        op = self.operations[name]
        return op.group is Group.SITE or any(map(self._from_a_site, op.inputs))

    def called(self, node: fx.Node) -> str:
        """Return what a node is, for messages: its path, what it calls, and the arguments."""
        args, kwargs = self.measures.arguments(node)
        words = [_short(arg) for arg in args if not isinstance(arg, fx.Node)]
        words += [f"{k}={_short(arg)}" for k, arg in kwargs.items() if not isinstance(arg, fx.Node)]
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        name = written(node, self.modules)
        if isinstance(module, ActivationQuantizer):
            module = module.activation
            name = type(module).__name__
        settings = "" if module is None else module.extra_repr()
        described = ", ".join(filter(None, [settings, *words]))
        return f"{self.paths[node]} ({name}{f': {described}' if described else ''})"

    def raw(self, node: Any) -> Parts:
        """Return what a node has made, whatever it still has to pass.

        Raises:
            ConfigError: if it is no tensor that is made of the image.
        """
        made = self.values.get(node) if isinstance(node, fx.Node) else None
        if not isinstance(made, Parts):
            described = self.called(node) if isinstance(node, fx.Node) else str(node)
            raise ConfigError(
                f"{described} is read as a tensor of the image, which it is not; that has no "
                "integer form."
            )
        return made

    def parts(self, node: Any) -> Parts:
        """Return the parts of a tensor.

        Raises:
            ConfigError: if it still has to pass a function, or is in an unknown order.
        """
        parts = self.raw(node)
        if parts.function is not None:
            raise ConfigError(
                f"{self.called(node)} has an integer form only where a site, or the end of the "
                "network, follows it at once."
            )
        if parts.bordered:
            raise ConfigError(
                f"{self.called(node)} has an integer form only where the largest values of windows "
                "are taken next."
            )
        if parts.index is not None and all(isinstance(v, Coded) for v in parts.values):
            raise ConfigError(
                f"{self.called(node)} puts values into an order, or repeats them in a way, that "
                "has no integer form."
            )
        if parts.pools or parts.index is not None:
            raise ConfigError(
                f"{self.called(node)} reads sums that are not yet quantized, which has an integer "
                "form only where an activation function follows at once: put that in front of it."
            )
        return parts

    def coded(self, node: Any, reader: str) -> list[Coded]:
        """Return the parts of a tensor that has to be codes, to be read as they are."""
        given = self.parts(node).values
        parts = [part for part in given if isinstance(part, Coded)]
        if len(parts) < len(given):
            raise ConfigError(
                f"{reader} reads {self.paths[node]}, which is float: give the site in front of it "
                "bits, which a rule with activation: null has taken away."
            )
        return parts


def names_of(name: str, parts: Sequence[Any]) -> list[str]:
    """Return a name for what is made of each part."""
    return [name] if len(parts) == 1 else [f"{name}[{i}]" for i in range(len(parts))]


def pair(value: Any) -> tuple[int, int]:
    """Return rows and columns of what may be one number for both."""
    if isinstance(value, (list, tuple)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))


def both_sides(padding: Any) -> Sides:
    """Return rows and columns that are added on both sides alike."""
    rows, columns = pair(padding)
    return (rows, rows), (columns, columns)


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)) and any(hasattr(one, "shape") for one in value):
        text = ", ".join(map(_short, value))
    else:
        text = f"tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
