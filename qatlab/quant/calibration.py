"""Starts the activation quantizers when a run goes over to the quantize phase."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import quantizers, set_phase
from qatlab.quant.sat import SatActivation


@torch.no_grad()
def start_activations(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the model to the quantize phase and give every activation quantizer its starting value.

    Quantizers that take their start from data (``alpha: auto``) watch the float activations of
    ``images`` while weights are already quantized, with the batch statistics that training uses;
    the running statistics of batch norms are left as they are.

    Args:
        model: converted network, on the device of ``images``.
        images: batches ``(N, C, H, W)``; only drawn if a quantizer needs them.
    """
    set_phase(model, Phase.QUANTIZE)
    sites = [q for q in quantizers(model) if isinstance(q, SatActivation)]
    watching = [site for site in sites if site.observe()]
    if watching:
        training = {module: module.training for module in model.modules()}
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        tracking = [norm.track_running_stats for norm in norms]
        model.eval()  # no dropout
        for norm in norms:
            norm.train()
            norm.track_running_stats = False  # with momentum 0 it would still count the batches
        for batch in images:
            model(batch)
        for norm, tracks in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracks
        for module, mode in training.items():
            module.training = mode
    for site in sites:
        site.begin()
