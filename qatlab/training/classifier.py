"""The LightningModule of image classification; it does not know one quantizer from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from qatlab.errors import TrainingError
from qatlab.quant import Phase, hold_weights, quantizers, release_weights
from qatlab.training.forward import TrainingForward
from qatlab.training.solver import Solver

Batch = tuple[Tensor, Tensor]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module and all inside to evaluation for a while, then each back to its own mode."""
    training = {inner: inner.training for inner in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for inner, mode in training.items():
            inner.training = mode


class Classifier(LightningModule):
    """Cross entropy, accuracy and optimizer around a network ``(N, C, H, W) -> (N, classes)``.

    Args:
        model: the network, already converted; its structure is final.
        solver: builds the optimizer.
        position: epochs done -> (epochs done in the phase, epochs of the phase), for the learning
            rate.
        num_classes: outputs of the network.
        step: computes the network in training.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        position: Callable[[float], tuple[float, int]],
        num_classes: int,
        step: TrainingForward,
    ) -> None:
        super().__init__()
        self.step = step
        self.model = model
        self.solver = solver
        self.position = position
        # Plain sums: a metric object costs several times as much in each training step.
        self._train_sums = torch.zeros(3)  # loss, correct, images
        self.evaluation_loss = MeanMetric()
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.outputs: list[Tensor] = []  # of the last test, batch by batch
        self.labels: list[Tensor] = []

    @property
    def phase_name(self) -> str:
        """The phase that the quantizers are in: ``clamp``, ``quantize``, or ``float``."""
        return next((q.phase.value for q in quantizers(self.model)), Phase.FLOAT.value)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs ``(N, classes)`` of images ``(N, C, H, W)``."""
        outputs: Tensor = self.model(images)
        return outputs

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its learning rate schedule, which moves with every step."""
        optimizer = self.solver.build(self.model)
        scheduler = self.solver.lr_scheduler(
            optimizer, lambda step: self.position(self._epochs_done(step))
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Move the running sums, which a checkpoint may have brought, to the model's device."""
        self.step.check(self.device, self.trainer.precision)
        self._train_sums = self._train_sums.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross entropy of a batch."""
        images, labels = batch
        outputs = self.step(self.model, images).float()
        loss = F.cross_entropy(outputs, labels)
        with torch.no_grad():
            correct = (outputs.argmax(1) == labels).sum()
            count = len(labels)
            self._train_sums += torch.stack([loss * count, correct, loss.new_tensor(count)])
        if self.device.type == "cpu":  # on a GPU, looking at it would make the step wait
            self._check_finite(loss, batch_idx)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log loss, accuracy and learning rate of the epoch."""
        loss, correct, count = self._train_sums.tolist()
        self._check_finite(self._train_sums[0], None)
        self._train_sums = torch.zeros_like(self._train_sums)
        rate = self._epoch_rate()
        metrics = {"train/loss": loss / count, "train/acc": correct / count, "lr": rate}
        self.log_dict(metrics, logger=False)
        # Lightning would write them after the checkpoint of the epoch has been saved, and a run
        # killed between the two would never have them.
        step = self.global_step - 1
        for logger in self.loggers:
            if hasattr(logger, "note"):
                logger.note(step, phase=self.phase_name)
            logger.log_metrics({**metrics, "epoch": self.current_epoch}, step)
            logger.save()

    def on_validation_epoch_start(self) -> None:
        """Quantize the weights, once for all batches."""
        hold_weights(self.model)

    def on_test_epoch_start(self) -> None:
        """Quantize the weights, once for all batches."""
        hold_weights(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to loss and accuracy."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and ``val/acc``."""
        release_weights(self.model)
        self._log_evaluation("val", ("loss", "acc"))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to all scores, and keep its outputs."""
        outputs = self._evaluate(batch)
        self.confusion.update(outputs, batch[1])
        self.outputs.append(outputs.cpu())
        self.labels.append(batch[1].cpu())

    def on_test_start(self) -> None:
        """Forget an earlier test."""
        self.confusion.reset()
        self.outputs, self.labels = [], []

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss``, ``test/acc`` and ``test/top5``."""
        release_weights(self.model)
        self._log_evaluation("test", ("loss", "acc", "top5"))

    def evaluate_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return summed loss, correct answers and number of images of one batch."""
        outputs = self.model(images.to(self.device)).float()
        labels = labels.to(self.device)
        loss = F.cross_entropy(outputs, labels, reduction="sum")
        return loss, (outputs.argmax(1) == labels).sum(), len(labels)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        checkpoint["train_sums"] = self._train_sums.tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of the epoch that was interrupted."""
        self._train_sums = torch.tensor(checkpoint["train_sums"])

    def _epochs_done(self, steps: int) -> float:
        """Turn steps of the optimizer into epochs, whole ones and parts."""
        # Only in training: before, the number of batches is not known. To ask for it all the same,
        # as by trainer.estimated_stepping_batches, would set the training batches up too early for
        # a resumed run, and it would see the first batches of its epoch once more.
        if steps == 0:
            return 0.0
        batches = self.trainer.num_training_batches
        return steps / math.ceil(batches / self.trainer.accumulate_grad_batches)

    def _epoch_rate(self) -> float:
        """Return the learning rate at the epoch's start; its scheduler is already at the end."""
        group = self.trainer.optimizers[0].param_groups[0]
        factor = self.solver.lr_factor(*self.position(self.current_epoch))
        return float(group["initial_lr"]) * factor

    def _evaluate(self, batch: Batch) -> Tensor:
        images, labels = batch
        outputs: Tensor = self.model(images).float()
        self.evaluation_loss.update(F.cross_entropy(outputs, labels, reduction="none"))
        self.top1.update(outputs, labels)
        self.top5.update(outputs, labels)
        return outputs

    def _log_evaluation(self, stage: str, keys: tuple[str, ...]) -> None:
        metrics = {"loss": self.evaluation_loss, "acc": self.top1, "top5": self.top5}
        self.log_dict({f"{stage}/{key}": metrics[key].compute() for key in keys}, prog_bar=True)
        for metric in metrics.values():
            metric.reset()

    def _check_finite(self, loss: Tensor, batch_idx: int | None) -> None:
        if math.isfinite(loss.item()):
            return
        where = f"epoch {self.current_epoch + 1}"
        where += "" if batch_idx is None else f", batch {batch_idx + 1}"
        bad = [n for n, p in self.model.named_parameters() if not p.isfinite().all()]
        layer = f" and {bad[0]} holds values that are not finite" if bad else ""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is {loss.item()} in {where} of the {self.phase_name} phase{layer}; "
            f"lower solver.optimizer.lr (now at {rate:g}) or set trainer.gradient_clip_val"
        )
