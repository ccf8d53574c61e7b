"""An average of the weights over the steps of a training, to be used in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, distributed, nn

from qatlab.errors import wrong

TRAINED = "trained_state_dict"  # in checkpoints: the weights that the training goes on with


class WeightAverage(Callback):
    """Validates, keeps and tests an exponential moving average of the weights.

        average_t = sum_i decay^(t - i) w_i / sum_i decay^(t - i),   i = 1 ... t

    over the weights w_i after each step of the optimizer. The sum below makes it an average from
    the first step on: of the weights alone, not of the ones they started from.

    Weights are all that is learned, steps and clip values too, and the running statistics of batch
    norms. The training does not see their average. In checkpoints the average is the network, and
    the weights that a resumed run goes on with stand beside it.

    An average of clamped and quantized weights means nothing: with each phase a new one begins, and
    the phase starts from the last average of the one before, as if the two were two runs.

    Lightning's own ``WeightAveraging`` is not used: it averages a copy of the module, whose
    quantizers stay in the phase in which they were copied.

    Args:
        decay: what is left of the average at each step. It looks back over some 1 / (1 - decay)
            steps.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise wrong("callbacks.ema.decay", decay, "a number in [0, 1)")
        self.decay = decay
        self._steps = 0  # of the phase
        self._averages: dict[str, Tensor] = {}
        self._is_applied = False

    @contextmanager
    def applied(self, pl_module: LightningModule) -> Iterator[None]:
        """Put the average in the place of the weights for a while, unless it is there already."""
        swaps = bool(self._averages) and not self._is_applied
        if swaps:
            self._swap(pl_module)
        try:
            yield
        finally:
            if swaps:
                self._swap(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average, which a checkpoint may have brought, to the model's device."""
        self._averages = {k: v.to(pl_module.device) for k, v in self._averages.items()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a phase with the last average of the one before."""
        position: Any = pl_module.position
        if position(trainer.current_epoch)[0] == 0 and self._averages:
            self._swap(pl_module)
            self._steps, self._averages, self._is_applied = 0, {}, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights after a step of the optimizer."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not (stepped or trainer.is_last_batch):
            return
        weights = {name: tensor.detach() for name, tensor in _averaged(pl_module).items()}
        self._steps += 1
        if self._steps == 1:
            self._averages = {name: tensor.clone() for name, tensor in weights.items()}
            return
        share = (1 - self.decay) / (1 - self.decay**self._steps)
        torch._foreach_lerp_(list(self._averages.values()), list(weights.values()), share)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self._averages and not self._is_applied:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on training the weights."""
        if self._is_applied:
            self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps in the average."""
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._steps = state_dict["steps"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make the average the network of the checkpoint, and put the weights beside it."""
        if self._averages:
            checkpoint[TRAINED] = _copy(checkpoint["state_dict"])
            with self.applied(pl_module):
                checkpoint["state_dict"] = _copy(pl_module.state_dict())

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on training the weights of the checkpoint; its network was loaded before."""
        if trainer.state.fn is TrainerFn.FITTING and TRAINED in checkpoint:
            self._averages = {k: v.detach().clone() for k, v in _averaged(pl_module).items()}
            pl_module.load_state_dict(checkpoint[TRAINED])

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        """Let weights and averages change places."""
        several = distributed.is_available() and distributed.is_initialized()
        for name, tensor in _averaged(pl_module).items():
            kept = tensor.clone()
            if several and not self._is_applied:
                # Each process has running statistics of its own, and a checkpoint those of one.
                distributed.broadcast(self._averages[name], 0)
            tensor.copy_(self._averages[name])
            self._averages[name].copy_(kept)
        self._is_applied = not self._is_applied


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """Return what is averaged; shared parameters once, under their first name."""
    kept = module.state_dict()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {k: v for k, v in tensors.items() if k in kept and v.is_floating_point()}


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dictionary that stays as it is."""
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
