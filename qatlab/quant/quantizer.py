"""The base class of all quantizers, and the bit widths they accept."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from qatlab.arguments import text
from qatlab.errors import QuantRuleError
from qatlab.quant.phase import Phase

HIGHEST_BITS = 16  # float32 still holds every level and every product of two levels' indices


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
            "give either bits or n_steps, and null for the other, not "
            f"bits={text(bits)} and n_steps={text(n_steps)}"
        )
    value, name, highest = (
        (bits, "bits", HIGHEST_BITS) if n_steps is None else (n_steps, "n_steps", 65535)
    )
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise QuantRuleError(f"{name}={value!r} is not a whole number from 1 to {highest}")
    return value if n_steps is not None else (1 << value) - 1


class Quantizer(nn.Module):
    """Tensor in, fake-quantized tensor of the same shape out; owns its learned parameters.

    Attributes:
        phase: what :meth:`forward` does now; kept in checkpoints as plain text, so that a loaded
            model computes as it did when it was saved.
        n_steps: steps of the grid.
        layer: path of the layer or site, for error messages; set by ``quantize``.
    """

    def __init__(self, bits: int | None, n_steps: int | None) -> None:
        super().__init__()
        self.phase = Phase.QUANTIZE
        self.n_steps = steps_of(bits, n_steps)
        self.layer = "?"

    @property
    def bits(self) -> int:
        """Bit width that holds all levels: ``ceil(log2(n_steps + 1))``."""
        return self.n_steps.bit_length()

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {"method": type(self).__name__, "bits": self.bits, "n_steps": self.n_steps}

    def get_extra_state(self) -> str:
        """Return the phase as plain text."""
        return self.phase.value

    def set_extra_state(self, state: str) -> None:
        """Take the phase that :meth:`get_extra_state` saved."""
        self.phase = Phase(state)

    def extra_repr(self) -> str:
        """Name the facts when the model is printed."""
        return ", ".join(f"{key}={value}" for key, value in self.describe().items())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``."""
        raise NotImplementedError


def quantizers(model: nn.Module) -> list[Quantizer]:
    """Return all quantizers of a model in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Quantizer)]


def set_phase(model: nn.Module, phase: Phase) -> None:
    """Make every quantizer of a model work in ``phase``."""
    for quantizer in quantizers(model):
        quantizer.phase = phase
