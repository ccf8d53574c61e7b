"""Transforms of pixel values by a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from qatlab.data.transforms.limits import choice, numbers
from qatlab.data.transforms.transform import Transform
from qatlab.errors import wrong

Operator = Literal["plus", "minus", "multiplies", "divides"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "plus": torch.add,
    "minus": torch.sub,
    "multiplies": torch.mul,
}


class RangeAffine(Transform):
    """Applies two operations to each value, in float32: (x op1 v1) op2 v2.

    ``divides`` is a product with the float32 nearest to 1 / v, as in OpenCV and N2D2.
    N2D2's ``RangeAffineTransformation``: FirstOperator, FirstValue, SecondOperator, SecondValue,
    Truncate.

    Args:
        first_operator: plus, minus, multiplies or divides.
        first_value: a number, or one for each channel in the order of the image's channels.
        second_operator: likewise.
        second_value: likewise; None for no second operation.
        truncate: cut the result to a whole number, towards zero; it stays float32.
        apply_to: see :class:`Transform`.
    """

    per_pixel = True

    def __init__(
        self,
        first_operator: Operator,
        first_value: float | Sequence[float],
        second_operator: Operator = "plus",
        second_value: float | Sequence[float] | None = None,
        truncate: bool = False,
        apply_to: Sequence[str] | None = None,
    ) -> None:
        super().__init__(apply_to)
        self.steps = [self._step("first", first_operator, first_value)]
        second = self._step(
            "second", second_operator, 0.0 if second_value is None else second_value
        )
        self.steps += [] if second_value is None else [second]
        self.truncate = truncate

    def channels(self, given: int) -> int:
        """Check the numbers of values."""
        for which, (_, values) in zip(("first", "second"), self.steps, strict=False):
            self.per_channel(f"{which}_value", values, given)
        return given

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Compute."""
        return self.into(images, None)

    def into(self, images: Tensor, result: Tensor | None) -> Tensor:
        """Compute, and write to ``result``, float32, of the shape of ``images``; None for new."""
        x = images  # the first operation makes floats of bytes by itself
        for operator, values in self.steps:
            v: float | Tensor = values[0]
            if len(values) > 1:
                v = torch.tensor(values, dtype=torch.float32, device=x.device).view(-1, 1, 1)
            x = result = OPERATIONS[operator](x, v, out=result)
        return x.trunc_() if self.truncate else x

    def _step(
        self, which: str, operator: str, value: float | Sequence[float]
    ) -> tuple[str, tuple[float, ...]]:
        """Check one operation; a division becomes a product."""
        operator = choice(self.key_of(f"{which}_operator"), operator, OPERATORS)
        values = numbers(self.key_of(f"{which}_value"), value)
        if operator != "divides":
            return operator, values
        if 0.0 in values:
            raise wrong(self.key_of(f"{which}_value"), 0, "a number other than 0")
        return "multiplies", tuple(1 / v for v in values)
