"""The baselines that SAT is made of: DoReFa weights, PACT and DoReFa activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from qatlab.quant.dispatch import dorefa_weight_fused
from qatlab.quant.functional import sat_inverse, sat_line, sat_position
from qatlab.quant.grid import pact_grid
from qatlab.quant.learned import ClipActivation
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import GridSettings, Quantizer, checked_weight


class PactActivation(ClipActivation):
    """Activation quantizer of PACT (Choi et al. 2018): the clip value learns from clipped values.

    Arguments: see :class:`~qatlab.quant.learned.ClipActivation`.
    """

    method = "PACT"
    levels = staticmethod(pact_grid)


class DorefaActivation(PactActivation):
    """Activation quantizer of DoReFa-Net (Zhou et al. 2016): the clip value stays 1.

    Source: arXiv:1606.06160, section 2.3, with ``h(x) = clip(x, 0, 1)``.

    Args:
        activation: the float activation function that stands at this site.
        ewgs: see :func:`~qatlab.quant.grid.fake_quantize`.
        dead_zeros: see :func:`~qatlab.quant.dispatch.block_zero_gradient`.
        signed: clip to [-1, 1]; set by ``quantize`` where values can be negative.
        settings: see :class:`~qatlab.quant.quantizer.Quantizer`.
    """

    method = "DoReFa"

    def __init__(
        self,
        activation: nn.Module,
        *,
        ewgs: float = 0.0,
        dead_zeros: bool = False,
        signed: bool = False,
        **settings: Unpack[GridSettings],
    ) -> None:
        super().__init__(
            activation, alpha=1.0, ewgs=ewgs, dead_zeros=dead_zeros, signed=signed, **settings
        )
        self.alpha.requires_grad_(False)


class DorefaWeight(Quantizer):
    """Weight quantizer of DoReFa-Net (Zhou et al. 2016).

    Arguments: see :class:`~qatlab.quant.quantizer.Quantizer`.
    """

    method = "DoReFa"

    def weight_step(self, weight: Tensor) -> Tensor:
        """Return half the distance of two levels; codes are odd. Of 1 bit: the mean size."""
        mean = weight.detach().abs().mean()
        return mean if self.n_steps == 1 else torch.ones_like(mean) / self.n_steps

    def positions(self, weight: Tensor) -> Tensor:
        """Return weights in [-1, 1] on the line of the levels."""
        return sat_position(weight, sat_line(self.n_steps, "default"))

    def weights_at(self, positions: Tensor, weight: Tensor) -> Tensor:
        """Return the weights whose tanh, over the largest, lies there."""
        return sat_inverse(positions, weight, sat_line(self.n_steps, "default"))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights ``(C_out, C_in, ...)`` that the layer computes with."""
        if self.phase is not Phase.QUANTIZE:
            return weight
        result = self.at_width(lambda: dorefa_weight_fused(weight, self.n_steps))
        return checked_weight(self, weight.detach(), result, "its quantized weights are not finite")
