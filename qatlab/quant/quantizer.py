"""The base classes of all quantizers, and the bit widths they accept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from qatlab.errors import QuantRuleError, TrainingError, text, wrong
from qatlab.quant.functional import VANISHED
from qatlab.quant.phase import Phase

MOST_STEPS = 65535
HIGHEST_BITS = 16  # float32 still holds every level and every product of two levels' indices
# In the extra state of quantizers: of bits that a training has learned, or is learning.
LEARNED_BITS, LEARNING_BITS = "learned_bits", "learning_bits"


def steps_of(bits: int | None, n_steps: int | None) -> int:
    """Return the number of steps of a grid given as bit width or as steps.

    Args:
        bits: bit width, 1 to 16; the grid has ``2**bits`` levels.
        n_steps: steps between the lowest and the highest level, 1 to 65535 (ternary: 2).

    Raises:
        QuantRuleError: unless exactly one of the two is given, and within its range.
    """
    if (bits is None) == (n_steps is None):
        raise QuantRuleError(
            "set exactly one of bits and n_steps, and the other to null, not "
            f"bits={text(bits)} and n_steps={text(n_steps)}"
        )
    value, name, highest = (
        (bits, "bits", HIGHEST_BITS) if n_steps is None else (n_steps, "n_steps", MOST_STEPS)
    )
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise wrong(name, value, f"a whole number from 1 to {highest}", kind=QuantRuleError)
    return value if n_steps is not None else (1 << value) - 1


def check_choice(name: str, value: object, accepted: Sequence[str]) -> None:
    """Raise a QuantRuleError unless ``value`` is one of the accepted words."""
    if value not in accepted:
        raise wrong(name, value, accepted, kind=QuantRuleError)


def check_switch(name: str, value: object) -> None:
    """Raise a QuantRuleError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false", kind=QuantRuleError)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass
class Width:
    """A bit width that a training learns, between two whole numbers.

    Attributes:
        value: the width, a scalar that gets a gradient; on the device of what is quantized.
        low: the whole number at or below it, as a number: reading a GPU would make each step wait.
    """

    value: Tensor
    low: int


class GridSettings(TypedDict, total=False):
    """Arguments of every quantizer, see :class:`Quantizer`."""

    bits: int | None
    n_steps: int | None


class Quantizer(nn.Module):
    """Tensor in, fake-quantized tensor of the same shape out; owns its learned parameters.

    A method's class names the arguments that are its own and hands all others on by keyword; YAML
    and rules are checked by the two together.

    Args:
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits`` (ternary: 2).

    Attributes:
        method: what messages call it.
        clamps: whether it has a clamp phase of its own.
        any_steps: whether what it learns means the same with any number of steps.
        on_grid: whether the quantize phase puts values on a grid; if not, they are stored in float.
        phase: what :meth:`forward` does now; kept in checkpoints as plain text, so that a loaded
            model computes as it did when it was saved.
        own_steps: steps of its grid.
        n_steps: those it works with now, see :meth:`widen`.
        width: its bits while a training learns them, see :meth:`at_width`; else None.
        has_learned_bits: whether ``own_steps`` are what a training has learned.
        layer: path of the layer or site, for error messages; set by ``quantize``.
    """

    method: ClassVar[str]
    clamps: ClassVar[bool] = False
    any_steps: ClassVar[bool] = False
    on_grid: bool = True

    def __init__(self, *, bits: int | None = None, n_steps: int | None = None) -> None:
        super().__init__()
        self.phase = Phase.QUANTIZE
        self.n_steps = self.own_steps = steps_of(bits, n_steps)
        self.width: Width | None = None
        self.has_learned_bits = False
        self.layer = "?"

    @property
    def bits(self) -> int:
        """Bit width that holds all levels: ``ceil(log2(n_steps + 1))``."""
        return self.n_steps.bit_length()

    def widen(self, bits: int | None) -> None:
        """Work with at least so many bits for a while; None: with its own again."""
        self.work_with(self.own_steps if bits is None else max(self.own_steps, (1 << bits) - 1))

    def work_with(self, n_steps: int) -> None:
        """Work with a grid of so many steps; what it has learned stays."""
        self.n_steps = n_steps

    def at_width(self, quantize: Callable[[], Tensor]) -> Tensor:
        """Return ``quantize()``; while bits are learned, between its results at the two next.

            y = (1 - f) Q_low + f Q_(low + 1),   f = width - low

        so that ``dy/dwidth`` is ``Q_(low + 1) - Q_low``, at whole widths, too.

        Source: Yang and Jin 2020 (FracBits), arXiv:2007.02017.

        Args:
            quantize: works with the present ``n_steps``.
        """
        if self.width is None:
            return quantize()
        before, low = self.n_steps, self.width.low
        try:
            self.work_with((1 << low) - 1)
            below = quantize()
            self.work_with((2 << low) - 1)
            above = quantize()
        finally:
            self.work_with(before)
        return torch.lerp(below, above, (self.width.value - low).to(below.dtype))

    def settle(self, n_steps: int) -> None:
        """Have a grid of so many steps from now on, as a training has learned it."""
        self.width, self.has_learned_bits, self.own_steps = None, True, n_steps
        self.work_with(n_steps)

    def fit(self, weight: Tensor) -> None:
        """Give the parameters the shape that these weights need."""

    def weight_step(self, weight: Tensor) -> Tensor:
        """Return the number, or one for each channel, of which quantized weights are multiples.

        Raises:
            QuantRuleError: by a method that does not define it.
        """
        raise QuantRuleError(
            f"{self.layer}: {type(self).__name__} defines no weight_step, which whole numbers and "
            "exported files need."
        )

    def positions(self, weight: Tensor) -> Tensor:
        """Return where weights lie between levels: rounded, they are the numbers of their levels.

        What lies beyond the lowest or the highest level is at that level.

        Args:
            weight: float weights, ``(C_out, C_in, ...)``.

        Raises:
            QuantRuleError: by a method that does not define it.
        """
        raise self._no_positions()

    def weights_at(self, positions: Tensor, weight: Tensor) -> Tensor:
        """Return the float weights at some :meth:`positions`.

        Args:
            positions: shape of ``weight``.
            weight: those of the layer now, whose range is kept.

        Raises:
            QuantRuleError: by a method that does not define it.
        """
        raise self._no_positions()

    def _no_positions(self) -> QuantRuleError:
        return QuantRuleError(
            f"{self.layer}: {type(self).__name__} defines no positions and weights_at, which "
            "callbacks=oscillation, freezing, dampening and transition_rate need."
        )

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        if not self.on_grid:
            return {"method": type(self).__name__}
        return {"method": type(self).__name__, "bits": self.bits, "n_steps": self.n_steps}

    def clamp_facts(self) -> tuple[Any, ...]:
        """Return all that its float and its clamp phase depend on, as plain values."""
        return tuple(sorted(self.describe().items())) if self.clamps else ()

    def get_extra_state(self) -> str:
        """Return phase, class and steps as plain text, such as ``quantize SatWeight 15``.

        And :data:`LEARNED_BITS` or :data:`LEARNING_BITS`, where the steps are no argument.
        """
        learned = f" {LEARNED_BITS}" if self.has_learned_bits else ""
        learned = learned if self.width is None else f" {LEARNING_BITS}"
        return f"{self.phase.value} {type(self).__name__} {self.n_steps}{learned}"

    def set_extra_state(self, state: str) -> None:
        """Take the phase that :meth:`get_extra_state` saved, and a wider or learned grid it had."""
        self.phase = phase_of(state)
        method, n_steps = [*state.split()[1:3], "", ""][:2]
        if method == type(self).__name__ and n_steps.isdecimal():
            steps = max(1, min(int(n_steps), MOST_STEPS))
            if LEARNED_BITS in state.split():
                self.has_learned_bits, self.own_steps = True, steps
            self.work_with(max(self.own_steps, steps))

    def understands(self, state: str) -> bool:
        """Tell whether what a quantizer of that extra state has learned means the same here."""
        known = slice(1, 2 if self.any_steps else None)
        return meaning(state)[known] == meaning(self.get_extra_state())[known]

    def extra_repr(self) -> str:
        """Name the facts when the model is printed."""
        return ", ".join(f"{key}={value}" for key, value in self.describe().items())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``."""
        raise QuantRuleError(f"{self.layer}: {type(self).__name__} defines no forward.")


def phase_of(state: str) -> Phase:
    """Return the phase that :meth:`Quantizer.get_extra_state` has saved."""
    return Phase(state.split()[0])


def meaning(state: str) -> list[str]:
    """Return the words of an extra state on which depends what a learned value means."""
    return [word for word in state.split() if word != LEARNED_BITS]


def checked_weight(quantizer: Quantizer, weight: Tensor, result: Tensor, fault: str) -> Tensor:
    """Return ``result``, or raise a TrainingError if a maximum or a variance has made it NaN."""
    # One number tells: NaN spreads to all weights through the statistics. On a GPU reading it
    # would make every step wait; there the loss is watched instead.
    can_check = result.device.type == "cpu" and not torch.compiler.is_compiling()
    if can_check and not math.isfinite(result.detach()[(0,) * result.ndim].item()):
        if not weight.isfinite().all():
            fault = "its weights are not finite; lower the learning rate"
        elif (largest := weight.abs().max().item()) < VANISHED:
            size = "0" if largest == 0 else f"at most {largest:.2g}"
            fault = f"all its weights are {size}, which {quantizer.method} cannot scale by their "
            fault += "maximum; initialise them"
        raise TrainingError(f"{quantizer.layer}: {fault}")
    return result


def quantizers(model: nn.Module) -> list[Quantizer]:
    """Return all quantizers of a model in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Quantizer)]


def set_phase(model: nn.Module, phase: Phase) -> None:
    """Make every quantizer of a model work in ``phase``."""
    for quantizer in quantizers(model):
        quantizer.phase = phase
