"""The quantizers of Scale-Adjusted Training (Jin et al. 2019, arXiv:1912.10207)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.errors import QuantRuleError
from qatlab.quant.dispatch import sat_weight_fused, weight_by_definition
from qatlab.quant.functional import (
    GRIDS,
    Scaling,
    sat_divisor,
    sat_grid,
    sat_scaling,
    sat_unit_weight,
    sat_weight,
)
from qatlab.quant.grid import Grid, cg_pact_grid
from qatlab.quant.learned import ActivationQuantizer, given_start
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import Quantizer, check_choice, check_switch, checked_weight
from qatlab.quant.starts import start_parameter


class SatWeight(Quantizer):
    """Weight quantizer of SAT: tanh, division by the maximum, grid, constant scaling.

    Args:
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits`` (ternary: 2).
        grid: ``default`` (DoReFa), ``symmetric``, ``asymmetric``, ``full_range`` or ``centered``.
        scaling: rescale to variance 1 / fan-out, for layers that no batch norm follows; or
            ``fan_in``: to 1 / fan-in, for a last layer with many more inputs than classes, whose
            outputs would saturate the loss (the paper's first rule of efficient training).
        statistics_gradient: let gradient flow through the maximum and the scale.
        clamp_only: do in the quantize phase what the clamp phase does: no rounding.
    """

    method = "SAT"
    clamps = True

    def __init__(
        self,
        bits: int | None = None,
        n_steps: int | None = None,
        grid: str = "default",
        scaling: Scaling = False,
        statistics_gradient: bool = False,
        clamp_only: bool = False,
    ) -> None:
        super().__init__(bits, n_steps)
        check_choice("grid", grid, GRIDS)
        if self.n_steps == 1 and grid in ("symmetric", "asymmetric"):
            raise QuantRuleError(
                f"grid={grid} has no levels at 1 bit; use grid=default, or n_steps=2 for ternary"
            )
        if scaling != "fan_in" and not isinstance(scaling, bool):
            raise QuantRuleError(f"scaling={scaling!r} is none of true, false, fan_in")
        check_switch("statistics_gradient", statistics_gradient)
        check_switch("clamp_only", clamp_only)
        self.grid = grid
        self.scaling = scaling
        self.statistics_gradient = statistics_gradient
        self.on_grid = not clamp_only

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        facts = {**super().describe(), "grid": self.grid, "scaling": self.scaling}
        return facts if self.on_grid else {**facts, "clamp_only": True}

    def clamp_facts(self) -> tuple[Any, ...]:
        """Return what its formula has before rounding; the steps are part of two grids' range."""
        steps = self.n_steps if self.grid in ("asymmetric", "full_range") else None
        return (self.grid, steps, self.scaling, self.statistics_gradient)

    def weight_step(self, weight: Tensor) -> Tensor:
        """Return the step of the grid; where zero is no level, half of it, and codes are odd."""
        levels = sat_grid(sat_unit_weight(weight), self.n_steps, self.grid)
        step = torch.ones_like(levels[(0,) * levels.ndim]) / sat_divisor(self.n_steps, self.grid)
        return step / sat_scaling(levels, scaling=self.scaling) if self.scaling else step

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the layer computes with in the present phase.

        Args:
            weight: float weights ``(C_out, C_in, ...)``.

        Raises:
            TrainingError: for weights that the formula would turn into NaN.
        """
        if self.phase is Phase.FLOAT:
            return weight
        rounded = self.on_grid and self.phase is Phase.QUANTIZE
        settings: dict[str, Any] = {
            "n_steps": self.n_steps,
            "grid": self.grid,
            "quantized": rounded,
            "scaling": self.scaling,
        }
        if self.statistics_gradient:
            function = partial(sat_weight, **settings, statistics_gradient=True)
            result = weight_by_definition(function, weight)
        else:
            result = sat_weight_fused(weight, **settings)
        return checked_weight(
            self,
            weight.detach(),
            result,
            "SAT's scaling divides by the variance of its quantized weights, and that is 0 or not "
            "defined; set scaling: false for this layer or give it more bits",
        )


class ClipActivation(ActivationQuantizer):
    """Activation quantizer with one learned clip value; the methods differ in their grid.

    Args:
        activation: the float activation function that stands at this site.
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits``.
        alpha: starting clip value in the units of the activations, or ``auto``: taken from the
            first batches when activations start to be quantized.
        start: for ``auto``, see :func:`~qatlab.quant.starts.start_parameter`.
        percentile: for ``start: percentile``, the share of values, in percent, left unclipped.
        ewgs: see :func:`~qatlab.quant.grid.fake_quantize`.
        dead_zeros: see :func:`~qatlab.quant.dispatch.block_zero_gradient`.
        signed: clip to [-alpha, alpha]; set by ``quantize`` where values can be negative.
    """

    learned = "alpha"
    alpha: nn.Parameter

    def __init__(
        self,
        activation: nn.Module,
        bits: int | None = None,
        n_steps: int | None = None,
        alpha: float | str = "auto",
        start: str = "percentile",
        percentile: float = 99.9,
        ewgs: float = 0.0,
        dead_zeros: bool = False,
        signed: bool = False,
    ) -> None:
        super().__init__(activation, bits, n_steps, start, percentile, signed, ewgs, dead_zeros)
        self.given = given_start("alpha", alpha)
        self.alpha = nn.Parameter(torch.tensor(1.0 if self.given is None else self.given))

    @property
    def parameter(self) -> Tensor:
        """The clip value."""
        return self.alpha

    def understands(self, state: str) -> bool:
        """Tell the same as the base class, but a clip value serves any number of steps."""
        return state.split()[1:2] == [type(self).__name__]

    def starting_values(self, values: Tensor) -> Tensor:
        """Return alpha for these activations, a scalar."""
        if self.given is not None:
            return torch.full_like(self.alpha, self.given)
        return start_parameter(values, self.grid, self.start, self.percentile)

    def set_start(self, start: Tensor) -> None:
        """Set alpha."""
        self.alpha.copy_(start)


class SatActivation(ClipActivation):
    """Activation quantizer of SAT at one site: CG-PACT. Arguments: see :class:`ClipActivation`."""

    method = "SAT"
    clamps = True

    def levels(self) -> Grid:
        """Return CG-PACT's grid."""
        return cg_pact_grid(self.n_steps, self.signed)
