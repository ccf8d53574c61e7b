"""The quantizers of Scale-Adjusted Training (Jin et al. 2019, arXiv:1912.10207)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from qatlab.errors import QuantRuleError, wrong
from qatlab.quant.dispatch import sat_weight_fused
from qatlab.quant.functional import (
    GRIDS,
    Scaling,
    sat_divisor,
    sat_grid,
    sat_inverse,
    sat_line,
    sat_position,
    sat_scaling,
    sat_unit_weight,
)
from qatlab.quant.grid import cg_pact_grid
from qatlab.quant.learned import ClipActivation
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import (
    GridSettings,
    Quantizer,
    check_choice,
    check_switch,
    checked_weight,
)


class SatWeight(Quantizer):
    """Weight quantizer of SAT: tanh, division by the maximum, grid, constant scaling.

    Args:
        grid: ``default`` (DoReFa), ``symmetric``, ``asymmetric``, ``full_range`` or ``centered``.
        scaling: rescale to variance 1 / fan-out, for layers that no batch norm follows; or
            ``fan_in``: to 1 / fan-in, for a last layer with many more inputs than classes, whose
            outputs would saturate the loss (the paper's first rule of efficient training).
        statistics_gradient: let gradient flow through the maximum and the scale.
        clamp_only: do in the quantize phase what the clamp phase does: no rounding.
        settings: see :class:`~qatlab.quant.quantizer.Quantizer`.
    """

    method = "SAT"
    clamps = True

    def __init__(
        self,
        *,
        grid: str = "default",
        scaling: Scaling = False,
        statistics_gradient: bool = False,
        clamp_only: bool = False,
        **settings: Unpack[GridSettings],
    ) -> None:
        super().__init__(**settings)
        check_choice("grid", grid, GRIDS)
        if self.n_steps == 1 and grid in ("symmetric", "asymmetric"):
            raise QuantRuleError(
                f"grid={grid} has no levels at 1 bit; use grid=default, or n_steps=2 for ternary"
            )
        if scaling != "fan_in" and not isinstance(scaling, bool):
            raise wrong("scaling", scaling, ("true", "false", "fan_in"), kind=QuantRuleError)
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

    def positions(self, weight: Tensor) -> Tensor:
        """Return weights in [-1, 1] on the line of the levels."""
        return sat_position(weight, sat_line(self.n_steps, self.grid))

    def weights_at(self, positions: Tensor, weight: Tensor) -> Tensor:
        """Return the weights whose tanh, over the largest, lies there."""
        return sat_inverse(positions, weight, sat_line(self.n_steps, self.grid))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the layer computes with in the present phase.

        Args:
            weight: float weights ``(C_out, C_in, ...)``.

        Raises:
            TrainingError: for weights that the formula would turn into NaN.
        """
        if self.phase is Phase.FLOAT:
            return weight
        if self.phase is Phase.CLAMP:
            return self._computed(weight, False)
        return self.at_width(lambda: self._computed(weight, self.on_grid))

    def _computed(self, weight: Tensor, rounded: bool) -> Tensor:
        settings = (self.n_steps, self.grid, rounded, self.scaling, self.statistics_gradient)
        result = sat_weight_fused(weight, *settings)
        return checked_weight(
            self,
            weight.detach(),
            result,
            "SAT's scaling divides by the variance of its quantized weights, and that is 0 or not "
            "defined; set scaling: false for this layer or give it more bits",
        )


class SatActivation(ClipActivation):
    """Activation quantizer of SAT at one site: CG-PACT.

    Arguments: see :class:`~qatlab.quant.learned.ClipActivation`.
    """

    method = "SAT"
    clamps = True
    levels = staticmethod(cg_pact_grid)
