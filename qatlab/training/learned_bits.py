"""Bit widths of layers and sites that are learned with the weights, within a budget.

Source: Yang and Jin 2020, "FracBits: Mixed Precision Quantization via Fractional Bit-Widths",
arXiv:2007.02017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from qatlab.errors import ConfigError, wrong
from qatlab.quant import ModelTable, Phase, Quantizer, quantizers
from qatlab.quant.quantizer import HIGHEST_BITS, Width, is_number
from qatlab.training.bit_budget import KEY, Array, BitBudget, budget_of
from qatlab.training.weight_levels import begins_phase, falling, log_epoch, stepped

MOMENTUM = 0.99  # of the mean squared gradients
GLIDES = 1 / 3  # of the learning, at its end
LEAST = 1e-3  # of the largest root mean square: that of a width without a gradient


class LearnedBits(Callback):
    """Learns widths at the beginning of the quantize phase; the rest has whole bits.

    A quantizer computes between the two whole widths next to its own, so that its width has a
    gradient, see :meth:`~qatlab.quant.Quantizer.at_width`. All start with one width, with which
    the network costs the budget. Each step of the optimizer moves them too:

        b = b - lr g / r - t c / r       r: root mean square of a width's gradients g

    with ``c`` the derivative of the cost, and ``t`` such that the cost is the budget again. They
    rest where a bit gains in each layer as much, of the loss, for what it costs: where they do with
    the paper's penalty ``weight |cost - budget|``. But this needs no weight, and the budget holds
    all the time. ``lr`` falls along half a cosine. In the last third of the learning the widths go
    in a straight line to whole ones near them, which cost at most the budget and, where any do, at
    least 98 % of it.

    After each epoch ``metrics.csv`` gets ``quant/<layer or site>/bits`` and ``budget/<kind>``.

    Args:
        budget: one of ``size`` (bytes as deployed), ``mean_bits`` (of all quantized weights) and
            ``bops``, with its number. Bits of sites are learned for ``bops`` only.
        lowest: bits of each layer and site at least, 2 or more.
        highest: at most.
        lr: bits by which a width moves in a step, about, at the beginning.
        share: of the quantize phase's epochs, that are for learning.
    """

    def __init__(
        self,
        budget: Mapping[str, float | None],
        lowest: int = 2,
        highest: int = 8,
        lr: float = 0.01,
        share: float = 0.5,
    ) -> None:
        self.kind, self.limit = budget_of(f"{KEY}.budget", {**budget} if budget else budget)
        for key, value in (("lowest", lowest), ("highest", highest)):
            if type(value) is not int or not 2 <= value <= HIGHEST_BITS:
                raise wrong(f"{KEY}.{key}", value, f"a whole number from 2 to {HIGHEST_BITS}")
        if lowest >= highest:
            raise wrong(f"{KEY}.lowest", lowest, f"less than highest, which is {highest}")
        if not (is_number(lr) and 0 < lr < math.inf):
            raise wrong(f"{KEY}.lr", lr, "a number above 0")
        if not (is_number(share) and 0 < share < 1):
            raise wrong(f"{KEY}.share", share, "a number in (0, 1)")
        self.lowest, self.highest, self.lr, self.share = lowest, highest, lr, share
        self.on_settled: Callable[[], None] = lambda: None
        self._budget: BitBudget | None = None
        self._bits = np.zeros(0)  # widths, in the order of the budget; none: not begun
        self._squares = np.zeros(0)  # moving sums of squared gradients
        self._steps = 0
        self._start = np.zeros(0)  # where the straight lines begin
        self._targets: list[int] = []  # where they end
        self._learns = False

    def prepare(self, table: ModelTable, kept: Collection[str], epochs: int) -> None:
        """Take the network whose bits are to be learned.

        Args:
            table: of its layers and sites.
            kept: names of those that keep their bits.
            epochs: of the quantize phase.

        Raises:
            ConfigError: for a budget that cannot be met, or a phase that is too short.
        """
        if epochs < 2:
            raise ConfigError(
                f"{KEY} needs schedule.quantize_epochs of at least 2, not {epochs}: bits are "
                "learned first, then whole ones are trained."
            )
        self._budget = BitBudget(table, self.kind, self.limit, kept, self.lowest, self.highest)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the widths of a checkpoint; whole ones it has brought in the quantizers."""
        if self._learns:
            self._apply(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin with the quantize phase, and end when the epochs of learning are over."""
        network: Any = pl_module.model
        if all(quantizer.phase is not Phase.QUANTIZE for quantizer in quantizers(network)):
            return
        if begins_phase(trainer, pl_module, batch_idx):
            self._bits = self._known.uniform()
            self._squares, self._steps = np.zeros_like(self._bits), 0
            self._targets, self._learns = [], True
            self._apply(pl_module)
        elif self._learns and self._learned(trainer, pl_module, batches=0.0) >= 1:
            self._settle(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the widths after a step of the optimizer."""
        if self._learns and stepped(trainer, batch_idx):
            self._step(pl_module, self._learned(trainer, pl_module))
            self._apply(pl_module)
        if trainer.is_last_batch and trainer.is_global_zero and len(self._bits):
            names = self._known.names
            values = {f"quant/{n}/bits": float(b) for n, b in zip(names, self._bits, strict=True)}
            values[f"budget/{self.kind}"] = self._known.cost(self._bits)
            log_epoch(trainer, values)

    def state_dict(self) -> dict[str, Any]:
        """Return widths, and all that their next steps depend on."""
        return {
            "bits": self._bits.tolist(),
            "squares": self._squares.tolist(),
            "steps": self._steps,
            "start": self._start.tolist(),
            "targets": self._targets,
            "learns": self._learns,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._bits, self._squares, self._start = (
            np.array(state_dict[key], dtype=np.float64) for key in ("bits", "squares", "start")
        )
        self._steps, self._learns = state_dict["steps"], state_dict["learns"]
        self._targets = list(state_dict["targets"])

    @property
    def _known(self) -> BitBudget:
        assert self._budget is not None  # who makes the trainer prepares it
        return self._budget

    def _learned(
        self, trainer: Trainer, pl_module: LightningModule, batches: float | None = None
    ) -> float:
        """Return the share of the learning that is over, with this batch or so many batches."""
        position: Any = pl_module.position
        done, epochs = position(trainer.current_epoch)
        of_learning = min(max(round(self.share * epochs), 1), epochs - 1)
        if batches is None:
            batches = (trainer.fit_loop.batch_idx + 1) / trainer.num_training_batches
        return float((done + batches) / of_learning)

    def _step(self, pl_module: LightningModule, learned: float) -> None:
        if learned > 1 - GLIDES:
            if not self._targets:
                self._start, self._targets = self._bits, self._known.rounded(self._bits)
            way = 1 - (1 - learned) / GLIDES  # exactly 1 in the end
            self._bits = (1 - way) * self._start + way * np.array(self._targets)
            return
        gradients = self._gradients(pl_module)
        if not np.isfinite(gradients).all():
            return
        self._steps += 1
        self._squares = MOMENTUM * self._squares + (1 - MOMENTUM) * gradients**2
        size = np.sqrt(self._squares / (1 - MOMENTUM**self._steps))
        size = np.maximum(size, LEAST * size.max()) if size.any() else np.ones_like(size)
        lr = self.lr * falling(learned / (1 - GLIDES))
        moved = self._bits - lr * gradients / size
        self._bits = self._known.held(moved, self._known.slopes(self._bits) / size)

    def _gradients(self, pl_module: LightningModule) -> Array:
        """Return the gradients of the loss by the widths, of all processes, in order."""
        found: list[Tensor] = []
        for quantizer in self._quantizers(pl_module):
            assert quantizer.width is not None
            value = quantizer.width.value
            found.append(torch.zeros_like(value) if value.grad is None else value.grad)
        all_of_them = torch.stack(found)  # one look at the device
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(all_of_them)
        return all_of_them.cpu().double().numpy()

    def _quantizers(self, pl_module: LightningModule) -> list[Quantizer]:
        by_name = {q.layer: q for q in quantizers(pl_module)}
        return [by_name[name] for name in self._known.names]

    def _apply(self, pl_module: LightningModule) -> None:
        """Give the quantizers their widths."""
        for quantizer, bits in zip(self._quantizers(pl_module), self._bits, strict=True):
            value = torch.tensor(bits, dtype=torch.float32)
            low = min(int(value), HIGHEST_BITS - 1)
            value = value.to(pl_module.device).requires_grad_()
            quantizer.width = Width(value, low)
            quantizer.work_with((1 << round(bits)) - 1)  # for all that looks at its levels

    def _settle(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the quantizers have whole bits from now on."""
        self._learns, self._bits = False, np.array(self._targets, dtype=np.float64)
        for quantizer, bits in zip(self._quantizers(pl_module), self._targets, strict=True):
            quantizer.settle((1 << bits) - 1)
            for parameter in quantizer.parameters(recurse=False):
                trainer.optimizers[0].state.pop(parameter, None)  # a step is one of another grid
        self.on_settled()
