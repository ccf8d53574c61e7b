"""The quantizers of Scale-Adjusted Training (Jin et al. 2019, arXiv:1912.10207)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.errors import QuantRuleError, TrainingError, did_you_mean
from qatlab.quant.eager import cg_pact_eager, sat_weight_eager
from qatlab.quant.functional import GRIDS, sat_weight
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import Quantizer


class SatWeight(Quantizer):
    """Weight quantizer of SAT: tanh, division by the maximum, grid, constant scaling.

    Args:
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits`` (ternary: 2).
        grid: ``default`` (DoReFa), ``symmetric``, ``asymmetric`` or ``full_range``.
        scaling: rescale to variance 1 / fan-out; for layers that no batch norm follows.
        statistics_gradient: let gradient flow through the maximum and the scale.
    """

    def __init__(
        self,
        bits: int | None = None,
        n_steps: int | None = None,
        grid: str = "default",
        scaling: bool = False,
        statistics_gradient: bool = False,
    ) -> None:
        super().__init__(bits, n_steps)
        if grid not in GRIDS:
            raise QuantRuleError(
                f"grid={grid!r} is none of {', '.join(GRIDS)}.{did_you_mean(str(grid), GRIDS)}"
            )
        if self.n_steps == 1 and grid in ("symmetric", "asymmetric"):
            raise QuantRuleError(
                f"grid={grid} has no levels at 1 bit; use grid=default, or n_steps=2 for ternary"
            )
        for name, switch in (("scaling", scaling), ("statistics_gradient", statistics_gradient)):
            if not isinstance(switch, bool):
                raise QuantRuleError(f"{name}={switch!r} is neither true nor false")
        self.grid = grid
        self.scaling = scaling
        self.statistics_gradient = statistics_gradient

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {**super().describe(), "grid": self.grid, "scaling": self.scaling}

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the layer computes with in the present phase.

        Args:
            weight: float weights ``(C_out, C_in, ...)``.

        Raises:
            TrainingError: for weights that the formula would turn into NaN.
        """
        if self.phase is Phase.FLOAT:
            return weight
        settings = (self.n_steps, self.grid, self.phase is Phase.QUANTIZE, self.scaling)
        if self.statistics_gradient:
            result = sat_weight(weight, *settings, statistics_gradient=True)
        else:
            result = sat_weight_eager(weight, *settings)
        # One number tells: NaN spreads to all weights through the maximum. On a GPU reading it
        # would make every step wait; there the loss is watched instead.
        looked_at = result.device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and not math.isfinite(result.detach()[(0,) * result.ndim].item()):
            raise TrainingError(f"{self.layer}: {self._fault(weight.detach())}")
        return result

    def _fault(self, weight: Tensor) -> str:
        if not weight.isfinite().all():
            return "its weights are not finite; lower the learning rate"
        if not weight.any():
            return "all its weights are 0, which SAT cannot scale by their maximum; initialise them"
        return (
            "SAT's scaling divides by the variance of its quantized weights, and that is 0 or not "
            "defined; set scaling: false for this layer or give it more bits"
        )


class SatActivation(Quantizer):
    """Activation quantizer of SAT at one site: CG-PACT with one learned clip value.

    Args:
        activation: the float activation function that stands at this site.
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits``.
        alpha: starting clip value in the units of the activations, or ``auto``: a percentile of
            the first batches when activations start to be quantized.
        percentile: the share of values, in percent, that ``auto`` leaves unclipped.
        signed: clip to [-alpha, alpha]; set by ``quantize`` where values can be negative.
    """

    alpha: nn.Parameter
    initialized: Tensor

    def __init__(
        self,
        activation: nn.Module,
        bits: int | None = None,
        n_steps: int | None = None,
        alpha: float | str = "auto",
        percentile: float = 99.9,
        signed: bool = False,
    ) -> None:
        super().__init__(bits, n_steps)
        if alpha != "auto" and not (_is_number(alpha) and 0 < float(alpha) < math.inf):
            raise QuantRuleError(f"alpha={alpha!r} is neither a number above 0 nor 'auto'")
        if not (_is_number(percentile) and 0 < percentile <= 100):
            raise QuantRuleError(f"percentile={percentile!r} is not above 0 and at most 100")
        if signed and self.n_steps == 1:
            raise QuantRuleError(
                "a signed site has no levels at 1 bit: give it 2 bits or more, or n_steps=2"
            )
        self.activation = activation
        self.start = alpha
        self.percentile = percentile
        self.signed = signed
        self.alpha = nn.Parameter(torch.tensor(1.0 if alpha == "auto" else float(alpha)))
        self.register_buffer("initialized", torch.tensor(False))
        self._observed: list[Tensor] | None = None

    @property
    def clips(self) -> bool:
        """Whether CG-PACT takes the place of the activation function, not only follows it."""
        return isinstance(self.activation, (nn.ReLU, nn.ReLU6))

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {**super().describe(), "signed": self.signed}

    def forward(self, x: Tensor) -> Tensor:
        """Return activations, quantized in the quantize phase; any shape."""
        if self._observed is not None:
            x = self.activation(x)
            self._observed.append(self._clip_value_of(x))
            return x
        if self.phase is not Phase.QUANTIZE:
            result: Tensor = self.activation(x)  # the clamp phase shapes weights only
            return result
        if not self.clips:
            x = self.activation(x)
        return cg_pact_eager(x, self.alpha, self.n_steps, self.signed)

    def observe(self) -> bool:
        """Start to watch the float activations; False if no starting value is needed from them."""
        self._observed = [] if self.start == "auto" and not self.initialized else None
        return self._observed is not None

    def begin(self) -> None:
        """Set alpha to its starting value, unless a checkpoint has brought one that was trained.

        Raises:
            TrainingError: if ``auto`` saw nothing above 0.
        """
        observed, self._observed = self._observed, None
        if self.initialized:
            return
        value = torch.stack(observed).mean().item() if observed else self.start
        if not (isinstance(value, (int, float)) and 0 < value < math.inf):
            raise TrainingError(
                f"{self.layer}: no starting alpha can be taken from its activations "
                f"({value}); set alpha to a number, such as 6.0"
            )
        self.alpha.data.fill_(value)
        self.initialized.fill_(True)

    def _clip_value_of(self, x: Tensor) -> Tensor:
        values = x.detach().float().abs().flatten()
        rank = max(1, math.ceil(self.percentile * values.numel() / 100))
        return values.kthvalue(rank).values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
