"""Starts the quantizers when a run goes over to the quantize phase."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qatlab.quant.layers import WEIGHT_QUANTIZER
from qatlab.quant.learned import ActivationQuantizer, LearnedQuantizer
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import quantizers, set_phase


@torch.no_grad()
def start_quantizers(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the model to the quantize phase and give every quantizer its starting values.

    Weight quantizers take theirs from the weights. Activation quantizers watch the float
    activations of ``images`` while weights are already quantized, with the batch statistics that
    training uses; the running statistics of batch norms are left as they are. Those that a
    checkpoint has started keep their values.

    Args:
        model: converted network, on the device of ``images``.
        images: batches ``(N, C, H, W)``; only drawn if a quantizer needs them.
    """
    set_phase(model, Phase.QUANTIZE)
    for layer in model.modules():
        quantizer = getattr(layer, WEIGHT_QUANTIZER, None)
        if isinstance(quantizer, LearnedQuantizer):
            quantizer.begin_with(layer.get_parameter("weight"))
    sites = [q for q in quantizers(model) if isinstance(q, ActivationQuantizer)]
    watching = [site for site in sites if site.observe()]
    if not watching:
        return
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
    for site in watching:
        site.begin_observed()


@contextmanager
def as_if_started(model: nn.Module) -> Iterator[None]:
    """Let a network compute for a while as if it had gone over to the quantize phase.

    Steps of weights are then taken from the weights, those of activations are any numbers, and no
    offset is 0: for looking at what a network will be, before it is trained.
    """
    before = [(q, q.phase, copy.deepcopy(q.state_dict())) for q in quantizers(model)]
    set_phase(model, Phase.QUANTIZE)
    for quantizer in quantizers(model):
        if isinstance(quantizer, ActivationQuantizer) and quantizer.needs_start:
            # To no round number, at which a function may jump (nn.Threshold).
            quantizer.begin_with(torch.linspace(0.1, 0.9731, 16).to(quantizer.parameter))
            if quantizer.learned_offset is not None:
                quantizer.learned_offset.data.fill_(0.1)
    try:
        yield
    finally:
        for quantizer, phase, state in before:
            quantizer.load_state_dict(state)
            quantizer.phase = phase
