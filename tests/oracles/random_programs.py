"""Networks as text: statements of a ``forward``, and the class that they become.

A :class:`Program` is what is generated and shrunk. Its statements name the sizes of what they read
instead of holding them, so that a statement in front may be taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 1500  # values of a tensor of one image: a network takes milliseconds
IMPORTS = """\
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
"""
SUBCLASSES = {  # layers of people's own, by their names
    "OwnConv2d": """\
class OwnConv2d(nn.Conv2d):
    pass
""",
    "StandardConv2d": """\
class StandardConv2d(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
""",
    "OwnLinear": """\
class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 0.5
""",
    "OwnReLU": """\
class OwnReLU(nn.ReLU):
    pass
""",
}
KNOWN: dict[str, Any] = {}
exec("\n".join((IMPORTS, *SUBCLASSES.values())), KNOWN)


class Unfit(Exception):
    """A statement that torch cannot compute here, or whose result is too large."""


@dataclass(frozen=True)
class Statement:
    """A line of a ``forward``, with the lines of ``__init__`` that it needs.

    Attributes:
        results: names of the tensors that it makes; none if it works in place on the first that
            it reads.
        reads: names of tensors.
        text: an expression, with lines in front of it at will; ``{0}`` is the first tensor that it
            reads, ``{c0}``, ``{h0}`` and ``{w0}`` are its channels (or features), rows and columns
            and ``{f0}`` all values of an image.
        made: lines of ``__init__``, likewise; ``self.NAME = ...``, and the lines behind it that are
            no such ones, are left out where that member is there already.
        block: name of the class that ``made`` makes an object of.
    """

    results: tuple[str, ...]
    reads: tuple[str, ...]
    text: str
    made: tuple[str, ...] = ()
    block: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """Names that have another value behind it."""
        return self.results or self.reads[:1]


@dataclass(frozen=True)
class Recipe:
    """How a network is quantized, trained and written.

    Attributes:
        weight: name of the quantizer in ``qatlab.quant``, and its arguments.
        activation: likewise.
        rules: as in a configuration.
        channels: of the images.
        size: of the images, rows and columns.
        normalised: whether each channel of the images has a step and an offset of its own.
        rescale: of the integer network.
        opset: of ONNX files.
        seed: of the weights and the images.
        inputs_of_functions: see ``qatlab.quantize``.
        one_step_for_sums: likewise.
    """

    weight: tuple[str, Mapping[str, Any]] = ("SatWeight", {"bits": 4})
    activation: tuple[str, Mapping[str, Any]] = ("SatActivation", {"bits": 4})
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    channels: int = 1
    size: tuple[int, int] = (6, 6)
    normalised: bool = False
    rescale: str = "fixed32"
    opset: int = 21
    seed: int = 0
    inputs_of_functions: bool = False
    one_step_for_sums: bool = False


@dataclass(frozen=True)
class Program:
    """A network and what is done to it.

    Attributes:
        statements: of ``forward``, whose input is ``x``.
        outputs: names of what it returns.
        last: expression with ``{0}``, a softmax behind the only output, or "".
        named: whether it returns a dictionary.
        blocks: statements of classes that are called in ``forward``, whose input is ``x``, too; the
            last one is what they return.
        recipe: how it is quantized.
    """

    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]
    recipe: Recipe
    last: str = ""
    named: bool = False
    blocks: Mapping[str, tuple[Statement, ...]] = field(default_factory=dict)

    def source(self) -> str:
        """Return the text of its classes.

        Raises:
            Unfit: if torch cannot compute it.
        """
        height, width = self.recipe.size
        bench = Bench(torch.rand(2, self.recipe.channels, height, width), self.blocks)
        for statement in self.statements:
            bench.add(statement)
        if any(name not in bench.values for name in self.outputs):
            raise Unfit(f"{self.outputs} are not all there")
        if self.last:
            (name,) = self.outputs
            returned = self.last.format(name)
        elif self.named:
            returned = "".join(f"'out{i}': {name}, " for i, name in enumerate(self.outputs))
            returned = f"{{{returned.rstrip(', ')}}}"
        else:
            returned = ", ".join(self.outputs)
        texts = [*bench.classes.values(), bench.text("Network", returned)]
        used = [text for name, text in SUBCLASSES.items() if f"{name}(" in "".join(texts)]
        return "\n\n".join([IMPORTS, *used, *texts])

    def network(self) -> nn.Module:
        """Return it, with random weights."""
        known: dict[str, Any] = {}
        exec(compile(self.source(), "<network>", "exec"), known)
        network: nn.Module = known["Network"]()
        return network

    def without_dead_ends(self) -> Program:
        """Return it without statements whose results nobody reads."""
        blocks = {
            name: _read(statements, statements[-1].written)
            for name, statements in self.blocks.items()
        }
        statements = _read(self.statements, self.outputs)
        used = {statement.block for statement in statements}
        kept = {name: block for name, block in blocks.items() if name in used}
        return replace(self, statements=statements, blocks=kept)

    def __str__(self) -> str:
        """Return its text and its recipe."""
        recipe = self.recipe
        facts = [
            f"# weight: {recipe.weight[0]} {dict(recipe.weight[1])}",
            f"# activation: {recipe.activation[0]} {dict(recipe.activation[1])}",
            *(f"# rule {key}: {dict(rule)}" for key, rule in recipe.rules.items()),
            f"# images: {recipe.channels} x {recipe.size[0]} x {recipe.size[1]}"
            f"{', normalised' if recipe.normalised else ''}",
            *(["# with inputs_of_functions"] if recipe.inputs_of_functions else []),
            *(["# with one_step_for_sums"] if recipe.one_step_for_sums else []),
            f"# rescale={recipe.rescale}, opset {recipe.opset}, seed {recipe.seed}",
        ]
        return "\n".join([self.source(), "\n", *facts])


def _read(statements: Sequence[Statement], outputs: Sequence[str]) -> tuple[Statement, ...]:
    needed, kept = set(outputs), list[Statement]()
    for statement in reversed(statements):
        if needed & set(statement.written):
            kept.append(statement)
            needed |= set(statement.reads)
    return tuple(reversed(kept))


class Bench:
    """Computes statements one after the other, and so knows the shapes of all tensors.

    Args:
        x: the input, two images.
        blocks: see :class:`Program`.
    """

    def __init__(self, x: Tensor, blocks: Mapping[str, Sequence[Statement]]) -> None:
        self.values: dict[str, Tensor] = {"x": x}
        self.blocks = blocks
        self.classes: dict[str, str] = {}
        self.module = nn.Module()
        self.made: list[str] = []
        self.lines: list[str] = []

    def add(self, statement: Statement) -> None:
        """Compute a statement.

        Raises:
            Unfit: if that does not work; nothing is changed then.
        """
        if any(name not in self.values for name in statement.reads):
            raise Unfit(f"{statement.reads} are not all there")
        given = [self.values[name] for name in statement.reads]
        words = dict(_sizes(given))
        *before, expression = _filled(statement.text, statement.reads, words).split("\n")
        target = ", ".join(statement.results)
        lines = [*before, f"{target} = {expression}" if target else expression]
        made = list(self._new([_filled(text, statement.reads, words) for text in statement.made]))
        values = dict(self.values)
        classes, known = dict(self.classes), {**KNOWN, "self": self.module}
        try:
            if statement.block and statement.block not in classes:
                classes[statement.block] = self._block(statement.block, given[0])
            exec("\n".join(classes.values()), known)
            with torch.no_grad():
                for line in made:
                    exec(line, known, values)
                self.module.eval()
                for line in lines:
                    exec(line, known, values)
        except Exception as error:  # whatever torch raises for shapes that do not fit
            raise Unfit(f"{lines}: {error}") from error
        for name in statement.written:
            result = values.get(name)
            fits = isinstance(result, Tensor) and result.ndim in (2, 4) and len(result) == 2
            if not (fits and 0 < result[0].numel() <= LARGEST and result.isfinite().all()):
                raise Unfit(f"{lines}: {getattr(result, 'shape', result)}")
        self.values = {name: values[name] for name in (*self.values, *statement.written)}
        self.classes = classes
        self.made += made
        self.lines += lines

    def _new(self, lines: Sequence[str]) -> Iterator[str]:
        """Yield the lines of ``__init__`` that make what is not there yet."""
        there = False
        for line in lines:
            member, _, assigned = line.partition(" = ")
            if assigned and member.startswith("self."):
                there = hasattr(self.module, member.removeprefix("self."))
            if not there:
                yield line

    def _block(self, name: str, x: Tensor) -> str:
        bench = Bench(x, {})
        for statement in self.blocks[name]:
            bench.add(statement)
        return bench.text(name, self.blocks[name][-1].written[0])

    def text(self, name: str, returned: str) -> str:
        """Return the class that computes all statements so far."""
        lines = [
            f"class {name}(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *(f"        {line}" for line in self.made),
            "",
            "    def forward(self, x):",
            *(f"        {line}" for line in self.lines),
            f"        return {returned}",
        ]
        return "\n".join([*lines, ""])


def _sizes(given: Sequence[Tensor]) -> Iterator[tuple[str, int]]:
    for i, value in enumerate(given):
        sizes = (*value.shape[1:], 1, 1)
        yield from zip((f"c{i}", f"h{i}", f"w{i}"), sizes, strict=False)
        yield f"f{i}", value[0].numel()


def _filled(text: str, names: Sequence[str], words: Mapping[str, int]) -> str:
    return text.format(*names, **words)
