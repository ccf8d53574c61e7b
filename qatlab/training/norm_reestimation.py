"""Running statistics of batch norms, measured anew with the weights as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.errors import ConfigError, wrong
from qatlab.quant.evaluating import evaluating
from qatlab.training.weight_average import WeightAverage


class NormReestimation(Callback):
    """Measures the running statistics of batch norms anew at the end of each epoch.

    In training they follow the statistics of batches with a delay, over which quantized weights
    jump from level to level. The training computes with the batches' own statistics, so it stays
    as it is; validation, checkpoint and test get the new ones. The images are always the same.

    Source: Nagel et al. 2022, arXiv:2203.11086, who find the delay to cost accuracy.

    Args:
        batches: number of training batches they are means over.
    """

    def __init__(self, batches: int = 32) -> None:
        if type(batches) is not int or batches < 1:
            raise wrong("callbacks.reestimate_norms.batches", batches, "a whole number above 0")
        self.batches = batches
        self._is_done = False  # in this epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a network in which there is nothing to measure."""
        if not _norms(pl_module):
            raise ConfigError(
                "callbacks.reestimate_norms has no effect on a network without batch norms with "
                "running statistics; leave it out."
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before a validation."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module)
            self._is_done = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure before the checkpoint of an epoch without a validation."""
        if not self._is_done:
            self._measure(trainer, pl_module)
        self._is_done = False

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule.images  # type: ignore[attr-defined]
        precision = trainer.precision_plugin
        batches = itertools.islice(data.train_dataloader(), self.batches)
        averages = [c for c in trainer.callbacks if isinstance(c, WeightAverage)]  # type: ignore[attr-defined]
        weights = averages[0].applied(pl_module) if averages else nullcontext()
        with weights, precision.forward_context():
            reestimate_norms(pl_module, (precision.convert_input(images) for images, _ in batches))
        # Several processes have measured with images of their own.
        for norm in _norms(pl_module):
            for statistic in (norm.running_mean, norm.running_var):
                statistic.copy_(trainer.strategy.reduce(statistic))


@torch.no_grad()
def reestimate_norms(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norms to the means over batches.

    Batches are normalised by their own statistics, as in training; all else is in evaluation, so
    that nothing is random.

    Args:
        model: the network, on the device of ``images``.
        images: batches ``(N, C, H, W)``, at least one; all weigh the same.
    """
    norms = _norms(model)
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean
            norm.train()
        for batch in images:
            model(batch)
    for norm, momentum, count in zip(norms, momenta, counts, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(count)


def _norms(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
