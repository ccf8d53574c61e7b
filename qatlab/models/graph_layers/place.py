"""Where a layer stands in its graph: what it reads, and checks of what it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.errors import ConfigError, text, wrong
from qatlab.models.graph_layers.fillers import Fill

Shape = tuple[int, int, int]  # C, H, W of one image's tensor
Pair = tuple[int, int]  # of the height and of the width
Sides = tuple[int, int, int, int]  # top, bottom, left, right
Size = int | Sequence[int]  # a pair or the sides, as a user writes them
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """What a type of layer makes of its keys.

    Attributes:
        shape: of its output.
        join: makes of its inputs what the module takes.
        module: computes; registered in the graph under the layer's name.
        before: functions between ``join`` and the module.
        after: functions behind the module.
        flat: whether the output is ``(N, C)``; else it is ``(N, C, H, W)``.
        reads: further tensors behind the inputs.
    """

    shape: Shape
    join: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    module: nn.Module | None = None
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    flat: bool = False
    reads: tuple[str, ...] = ()

    def compute(self, module: nn.Module | None, inputs: Sequence[Tensor]) -> Tensor:
        """Return the output of the layer, whose module is ``module`` by now."""
        tensors = self.join(inputs)
        for step in self.before:
            tensors = (step(tensors[0]),)
        x = tensors[0] if module is None else module(*tensors)
        for step in self.after:
            x = step(x)
        return x


@dataclass(frozen=True)
class Source:
    """A tensor that a layer reads: its name, shape and whether it is ``(N, C)``."""

    name: str
    shape: Shape
    flat: bool


@dataclass(frozen=True)
class Place:
    """What a builder of layers knows beside the layer's own keys.

    Attributes:
        key: of the layer in the configuration.
        sources: what it reads.
        weight_fill: for weights without an init of their own.
        bias_fill: the same for biases.
        above: the layers above by name, with their places.
    """

    key: str
    sources: tuple[Source, ...]
    weight_fill: Fill
    bias_fill: Fill
    above: Mapping[str, tuple[Place, Layer]]

    @property
    def flat(self) -> bool:
        """Whether all inputs are ``(N, C)``."""
        return all(source.flat for source in self.sources)

    def joined(self) -> Shape:
        """Return the shape of the inputs, concatenated along channels."""
        _, height, width = self.sources[0].shape
        for source in self.sources:
            if source.shape[1:] != (height, width):
                raise ConfigError(
                    f"{self.key}.input: {self._sizes()}, which cannot be concatenated."
                )
        return sum(source.shape[0] for source in self.sources), height, width

    def alike(self) -> Shape:
        """Return the shape that all inputs have."""
        if len({source.shape for source in self.sources}) > 1:
            raise ConfigError(f"{self.key}.input: {self._sizes()}; they must have one shape.")
        return self.sources[0].shape

    def features(self) -> int:
        """Return how many numbers there are in all inputs."""
        return sum(c * h * w for c, h, w in (source.shape for source in self.sources))

    def spatial(self) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Join to ``(N, C, H, W)``."""
        return partial(_spatial, flat=tuple(source.flat for source in self.sources))

    def flattened(self) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Join to ``(N, features)``, in the order of inputs, channels, rows and columns."""
        return _flattened

    def same(self) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Join to ``(N, C)`` where all inputs are that, or else to ``(N, C, H, W)``."""
        return _concatenated if self.flat else self.spatial()

    def separate(self) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Leave the inputs separate, all of them ``(N, C)`` or all of them ``(N, C, H, W)``."""
        flat = tuple(source.flat and not self.flat for source in self.sources)
        return partial(_unflattened, flat=flat)

    def by_channel(self, values: Sequence[float]) -> Tensor:
        """Return numbers, one for each channel, as they are broadcast over what :meth:`same` is."""
        tensor = torch.tensor([float(value) for value in values])
        return tensor if self.flat else tensor[:, None, None]

    def wrong(self, name: str, value: object, accepted: str) -> ConfigError:
        """Return the error for a key with that value."""
        return wrong(f"{self.key}.{name}", value, accepted)

    def whole(self, name: str, value: object, lowest: int = 1) -> int:
        """Return a whole number, or raise a ConfigError."""
        if not _is_whole(value, lowest):
            raise self.wrong(name, value, f"a whole number of at least {lowest}")
        assert isinstance(value, int)
        return value

    def pair(self, name: str, value: object, lowest: int = 1) -> Pair:
        """Return height and width, given as one number or as two."""
        numbers = _listed(value)
        if len(numbers) not in (1, 2) or not all(_is_whole(n, lowest) for n in numbers):
            accepted = f"a whole number of at least {lowest}, or [height, width]"
            raise self.wrong(name, value, accepted)
        return numbers[0], numbers[-1]

    def sides(self, name: str, value: object) -> Sides:
        """Return the four sides of a padding, given as one number, two or four."""
        numbers = _listed(value)
        if len(numbers) not in (1, 2, 4) or not all(_is_whole(n, 0) for n in numbers):
            accepted = "a whole number of at least 0, [height, width] or [top, bottom, left, right]"
            raise self.wrong(name, value, accepted)
        if len(numbers) == 4:
            return numbers[0], numbers[1], numbers[2], numbers[3]
        return numbers[0], numbers[0], numbers[-1], numbers[-1]

    def numbers(self, name: str, value: object, count: int, of: str) -> list[float]:
        """Return a list of ``count`` numbers."""
        listed = _listed(value)
        if len(listed) != count or not all(is_number(n) for n in listed):
            raise self.wrong(name, value, f"{count} numbers, one for each {of}")
        return listed

    def connections(
        self, mapping: Sequence[str] | None, channels_in: int, channels: int | None = None
    ) -> Tensor | None:
        """Return which channel is connected to which output, ``(C_in, C_out)`` of 0 and 1.

        Without ``channels`` there are as many outputs as the mapping has.
        """
        if mapping is None:
            return None
        rows = list(mapping)
        quoted = all(isinstance(row, str) and row and set(row) <= {"0", "1"} for row in rows)
        length = channels or (len(rows[0]) if quoted and rows else 1)
        if not quoted or [len(row) for row in rows] != [length] * channels_in:
            raise self.wrong(
                "mapping",
                rows,
                f"{channels_in} texts in quotes, one for each channel of the input, "
                f"with {channels or 'as many'} characters 0 or 1 as there are outputs",
            )
        return torch.tensor([[float(digit) for digit in row] for row in rows])

    def window(self, extent: Pair, stride: Pair, sides: Sides, kernel: object) -> Pair:
        """Return height and width of what a window of that extent makes of the inputs."""
        shape = self.joined()
        top, bottom, left, right = sides
        room = shape[1] + top + bottom - extent[0], shape[2] + left + right - extent[1]
        if min(room) < 0:
            raise ConfigError(
                f"{self.key}.kernel={text(kernel)} does not fit: it covers {extent[0]} x "
                f"{extent[1]}, and its input is {sizes(shape)} with padding {list(sides)}."
            )
        return room[0] // stride[0] + 1, room[1] // stride[1] + 1

    def _sizes(self) -> str:
        return " and ".join(f"{source.name} is {sizes(source.shape)}" for source in self.sources)


def sizes(shape: Sequence[int]) -> str:
    """Return a shape as messages write it."""
    return " x ".join(map(str, shape))


def is_number(value: object) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_whole(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _concatenated(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors if len(tensors) == 1 else (torch.cat(tuple(tensors), dim=1),)


def _unflattened(tensors: Sequence[Tensor], flat: Sequence[bool]) -> Sequence[Tensor]:
    return [x[:, :, None, None] if f else x for x, f in zip(tensors, flat, strict=True)]


def _spatial(tensors: Sequence[Tensor], flat: Sequence[bool]) -> Sequence[Tensor]:
    return _concatenated(_unflattened(tensors, flat))


def _flattened(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return _concatenated([torch.flatten(x, 1) for x in tensors])
