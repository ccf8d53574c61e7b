"""Random states in checkpoints: Lightning does not save them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed


class RandomState(Callback):
    """Saves the generators of Python, NumPy, torch and CUDA, and restores them on resume.

    Of several processes each has generators of its own: they start apart, so that each drops other
    values of its images, and a checkpoint holds those of all.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the generators of all processes but the first start elsewhere."""
        if trainer.global_rank > 0:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)

    def state_dict(self) -> dict[str, Any]:
        """Return all generator states as tensors, numbers and tuples, safe for ``weights_only``."""
        numpy_state: Any = np.random.get_state()
        name, keys, position, has_gauss, gauss = numpy_state
        local: Any = {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        states = [local]
        if distributed.is_available() and distributed.is_initialized():
            states = [None] * distributed.get_world_size()
            distributed.all_gather_object(states, local)  # each process asks for a checkpoint
        return {"processes": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the states until the first training step."""
        self._restored = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore right before the step that the interrupted run would have made next."""
        # Not on load: between loading and the first step Lightning draws numbers of its own.
        if self._restored is None:
            return
        states, self._restored = self._restored["processes"], None
        if len(states) != trainer.world_size:
            return  # by other devices than before, the run cannot be continued to the bit
        state = states[trainer.global_rank]
        random.setstate(state["python"])
        name, keys, position, has_gauss, gauss = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
