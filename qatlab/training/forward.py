"""How a network is computed in training: as it is, compiled, or with less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.errors import ConfigError, wrong
from qatlab.quant import MODES, Memory, kernels_available, quantizers

KEEP = "keep"


class TrainingForward:
    """Computes outputs in training; evaluations compute the network itself.

    Args:
        compiled: with ``torch.compile``, once for each phase. A batch of another size than the
            first one, such as the last of an epoch, is computed as it is.
        memory: one of :data:`~qatlab.quant.MODES`.

    Raises:
        ConfigError: for another word, or two settings that exclude each other.
    """

    def __init__(self, compiled: bool, memory: str) -> None:
        if memory not in MODES:
            raise wrong("memory", memory, MODES)
        if compiled and memory != KEEP:
            raise ConfigError(
                f"memory={memory} cannot be combined with compile=true, as the compiler decides "
                "what is kept for the backward pass."
            )
        self.compiled = compiled
        self.memory = memory
        self._function: Callable[[Tensor], Any] | None = None
        self._shape: torch.Size | None = None

    def check(self, device: torch.device, precision: str) -> None:
        """Raise a ConfigError where ``memory`` would have no effect."""
        fits = device.type == "cpu" and precision == "32-true" and kernels_available()
        if self.memory != KEEP and not fits:
            raise ConfigError(
                f"memory={self.memory} needs a CPU, trainer.precision=32-true and a C++ compiler; "
                f"use memory={KEEP}."
            )

    def check_model(self, model: nn.Module) -> None:
        """Raise a ConfigError for a float network, which holds nothing to be made again."""
        if self.memory != KEEP and not quantizers(model):
            raise ConfigError(
                f"memory={self.memory} has no effect on a float network; use memory={KEEP}."
            )

    def __call__(self, model: nn.Module, images: Tensor) -> Any:
        """Return what the network gives for images ``(N, C, H, W)``."""
        if self.compiled:
            if self._function is None:
                # A function: a compiled module would be a second module of the same parameters.
                self._function = torch.compile(lambda x: model(x), dynamic=False)
                self._shape = images.shape
            if images.shape == self._shape:
                return self._compute(images)
        with Memory(self.memory):
            return model(images)

    def _compute(self, images: Tensor) -> Any:
        assert self._function is not None
        try:
            return self._function(images)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise ConfigError(
                f"compile=true: the network cannot be compiled here: {words[0]}"
            ) from error
