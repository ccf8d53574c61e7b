"""The quantizers of LSQ (Esser et al. 2019, arXiv:1902.08153) and LSQ+ (Bhalgat et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from qatlab.errors import QuantRuleError
from qatlab.quant.dispatch import fake_quantize_fused
from qatlab.quant.grid import lsq_gradient_scale, lsq_grid
from qatlab.quant.learned import (
    ActivationQuantizer,
    LearnedQuantizer,
    LearnedSettings,
    SiteSettings,
)
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import check_choice, check_switch
from qatlab.quant.starts import affine, start_range

GRADIENT_SCALES = ("paper", "n2d2", "none")


class LsqWeight(LearnedQuantizer):
    """Weight quantizer of LSQ: a grid around zero with a learned step.

    Args:
        per_channel: a step for each output channel.
        step_size: starting step in the units of the weights, or ``auto``.
        gradient_scale: on the gradient of the step: ``paper`` and ``n2d2`` are
            ``1 / sqrt(N * q_max)`` for N weights, ``none`` is 1.
        settings: see :class:`~qatlab.quant.learned.LearnedQuantizer`; ``bits`` from 2 on. LSQ+
            starts with ``mean_std``.
    """

    method = "LSQ"
    learned = "step_size"
    levels = staticmethod(lsq_grid)
    default_start = "mean"
    step_size: nn.Parameter

    def __init__(
        self,
        *,
        per_channel: bool = False,
        step_size: float | str = "auto",
        gradient_scale: str = "paper",
        **settings: Unpack[LearnedSettings],
    ) -> None:
        super().__init__(size=step_size, signed=True, **settings)
        if self.n_steps == 1:
            given = "bits" if settings.get("n_steps") is None else "n_steps"
            raise QuantRuleError(
                f"{given}=1 gives LSQ weights the levels -s and 0 and no gradient scale; use 2 "
                "bits, or SAT, whose 1-bit weights are -1 and 1: "
                "{_target_: qatlab.quant.SatWeight}"
            )
        check_switch("per_channel", per_channel)
        check_choice("gradient_scale", gradient_scale, GRADIENT_SCALES)
        self.per_channel = per_channel
        self.scaled_gradient = gradient_scale != "none"

    def fit(self, weight: Tensor) -> None:
        """Give the step its shape, ``(C_out, 1, ...)`` if it is per channel."""
        if self.per_channel:
            shape = (weight.shape[0], *(1,) * (weight.ndim - 1))
            self.step_size = nn.Parameter(self.step_size.detach().expand(shape).clone())

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {**super().describe(), "per_channel": self.per_channel}

    def weight_step(self, weight: Tensor) -> Tensor:
        """Return the learned step; not that of the grid, so that a step of 0 shows."""
        return self.size.detach().abs()

    def positions(self, weight: Tensor) -> Tensor:
        """Return weights in steps, clipped to the grid."""
        return (weight / self.weight_step(weight)).clamp(self.grid.q_min, self.grid.q_max)

    def weights_at(self, positions: Tensor, weight: Tensor) -> Tensor:
        """Return ``positions`` times the step."""
        return positions * self.weight_step(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights ``(C_out, C_in, ...)`` that the layer computes with."""
        if self.phase is not Phase.QUANTIZE:
            return weight
        if self.needs_start:
            self.begin_with(weight)
        return self.at_width(lambda: self._quantized(weight))

    def _quantized(self, weight: Tensor) -> Tensor:
        count = weight.numel() // self.step_size.numel()
        scale = lsq_gradient_scale(count, self.grid.q_max) if self.scaled_gradient else 1.0
        return fake_quantize_fused(weight, self.size, self.grid, scale, None, self.ewgs)


class LsqActivation(ActivationQuantizer):
    """Activation quantizer of LSQ at one site: a grid with a learned step.

    Args:
        activation: the float activation function that stands at this site.
        step_size: starting step in the units of the activations, or ``auto``.
        gradient_scale: on the gradient of the step: ``paper`` is ``1 / sqrt(N * q_max)`` with N
            the activations of one image, ``n2d2`` counts those of the whole batch, ``none`` is 1.
        dead_zeros: see :func:`~qatlab.quant.dispatch.block_zero_gradient`.
        settings: see :class:`~qatlab.quant.learned.ActivationQuantizer`.
    """

    method = "LSQ"
    learned = "step_size"
    levels = staticmethod(lsq_grid)
    default_start = "mean"
    step_size: nn.Parameter

    def __init__(
        self,
        activation: nn.Module,
        *,
        step_size: float | str = "auto",
        gradient_scale: str = "paper",
        dead_zeros: bool = False,
        **settings: Unpack[SiteSettings],
    ) -> None:
        super().__init__(activation, size=step_size, dead_zeros=dead_zeros, **settings)
        check_choice("gradient_scale", gradient_scale, GRADIENT_SCALES)
        self.gradient_scaling = gradient_scale

    def gradient_scale(self, x: Tensor) -> float:
        """Return the factor on the gradient of the step for activations ``(N, ...)``."""
        if self.gradient_scaling == "none":
            return 1.0
        count = x.numel() if self.gradient_scaling == "n2d2" else x.shape[1:].numel()
        return lsq_gradient_scale(count, self.grid.q_max)


class LsqPlusActivation(LsqActivation):
    """Activation quantizer of LSQ+: step and offset are learned, so that no level is wasted.

    Unlike the others it follows an activation function and never takes its place. Arguments: see
    :class:`LsqActivation`, but no ``dead_zeros``: with an offset 0 is rarely a level. A starting
    step that is given starts with an offset of 0.
    """

    method = "LSQ+"
    starts = ("mean_std", "min_max", "percentile", "mse")
    default_start = "mean_std"

    def __init__(
        self,
        activation: nn.Module,
        *,
        step_size: float | str = "auto",
        gradient_scale: str = "paper",
        **settings: Unpack[SiteSettings],
    ) -> None:
        super().__init__(activation, step_size=step_size, gradient_scale=gradient_scale, **settings)
        self.offset = nn.Parameter(torch.tensor(0.0))

    @property
    def clips(self) -> bool:
        """False: its range may start below zero."""
        return False

    @property
    def learned_offset(self) -> Tensor:
        """The learned offset, the value of index 0, in the units of the activations."""
        return self.offset

    def starting_values(self, values: Tensor) -> Tensor:
        """Return step and offset for these activations, ``(2,)``."""
        if self.given is not None:
            step = super().starting_values(values)
            return torch.stack([step, torch.zeros_like(step)])
        low, high = start_range(values, self.grid, self.start, self.percentile)
        return torch.stack(affine(low, high, self.grid))

    def set_start(self, start: Tensor) -> None:
        """Set step and offset."""
        self.set_size(start[0])
        self.offset.copy_(start[1])
