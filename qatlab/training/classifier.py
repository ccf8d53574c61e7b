"""The LightningModule of image networks; it does not know one quantizer from another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from qatlab.errors import TrainingError
from qatlab.quant import (
    CollapseWatch,
    Phase,
    first_not_finite,
    hold_weights,
    quantizers,
    release_weights,
    warnings_of,
)
from qatlab.system.terminal import say
from qatlab.training.distillation import Distillation
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import IGNORED, Loss, as_tuple
from qatlab.training.mixup import Mixup
from qatlab.training.schedule import Span
from qatlab.training.solver import AnySolver

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Losses, accuracy and optimizer around a network of images ``(N, C, H, W)``.

    Args:
        model: the network, already converted; its structure is final. It returns one output, or a
            tuple of several, of which the first is scored.
        solver: builds the optimizer.
        losses: one for each output.
        position: epochs done -> (epochs done in the phase, epochs of the phase), for the learning
            rate.
        num_classes: of the data.
        step: computes the network in training.
        mixup: parameter of :class:`Mixup`; 0 trains on the images as they are.
        images_per_score: test images in a row whose mean loss is one score of an anomaly.
        distillation: adds what a teacher says; None for labels alone.

    Attributes:
        classifies: whether the first output stands for a class; if not, there is no accuracy.
        test_losses: of the images of the last test, batch by batch; none of a classifier.
        tested: number of images that counted in the last evaluation, of all processes.
        collapsed: by site or layer, what is wrong with quantizers that have collapsed in it.
    """

    def __init__(
        self,
        model: nn.Module,
        solver: AnySolver,
        losses: Sequence[Loss],
        position: Callable[[float], tuple[float, int]],
        num_classes: int,
        step: TrainingForward,
        mixup: float = 0.0,
        images_per_score: int = 1,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__()
        self.step = step
        self.model = model
        self.solver = solver
        self.losses = losses
        self.position = position
        self.mixup = Mixup(mixup)
        self.images_per_score = images_per_score
        self.distillation = distillation
        self.classifies = losses[0].classifies
        self.num_classes = num_classes
        # Plain sums: a metric object costs several times as much in each training step.
        self._train_sums = torch.zeros(3)  # see _sums
        self._evaluation_sums = torch.zeros(3)
        if self.classifies:
            self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORED)
        self.top5: MulticlassAccuracy | None = None  # of fewer classes it is 100 % always
        if self.classifies and num_classes > 5:
            self.top5 = MulticlassAccuracy(
                num_classes, average="micro", top_k=5, ignore_index=IGNORED
            )
        self.outputs: list[Tensor] = []  # of the last test, batch by batch
        self.labels: list[Tensor] = []
        self.test_losses: list[Tensor] = []
        self.tested = 0
        self.collapsed: dict[str, str] = {}
        self._watch: CollapseWatch | None = None

    @property
    def phase_name(self) -> str:
        """The phase that the quantizers are in: ``clamp``, ``quantize_8bit``, or ``float``.

        And ``quantize_learning`` while their bits are learned.
        """
        found = quantizers(self.model)
        if any(quantizer.width is not None for quantizer in found):
            return f"{Phase.QUANTIZE.value}_learning"
        wide = {quantizer.bits for quantizer in found if quantizer.n_steps > quantizer.own_steps}
        phase = next((quantizer.phase for quantizer in found), Phase.FLOAT)
        return Span(phase, 0, *wide).name

    @property
    def running(self) -> dict[str, float]:
        """Mean ``loss``, and of a classifier ``acc``, of this process in this epoch so far.

        Empty at its start. Reading it waits for the device.
        """
        return self.means(self._train_sums) if self._train_sums[2] > 0 else {}

    def forward(self, images: Tensor) -> Any:
        """Return what the network gives for images ``(N, C, H, W)``."""
        return self.model(images)

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
        """Return the mean loss of a batch.

        That of a mixture counts for both of its images, in proportion; its answer is right if it is
        the class of the larger part.
        """
        images, labels = batch
        mixed = self.mixup(images) if self.mixup.alpha else None
        images = images if mixed is None else mixed.images
        try:
            outputs = as_tuple(self.step(self.model, images))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's words
                raise
            raise TrainingError(
                "a batch norm cannot normalise a batch of a single value for each channel; choose "
                "a data.batch_size and a data.validation that leave no batch of one image"
            ) from error
        losses = self._losses(outputs, images, labels)
        if mixed is not None:
            of_partners = self._losses(outputs, images, labels[mixed.partners])
            losses = of_partners.lerp(losses, mixed.share)
        if self.distillation is not None:
            losses = self.distillation(losses, outputs[0], images)
        loss = losses.mean()
        with torch.no_grad():
            self._train_sums += self._sums(losses, outputs, labels)
        if self.device.type == "cpu":  # on a GPU, looking at it would make the step wait
            self._check_finite(loss, batch_idx)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log loss, accuracy and learning rate of the epoch."""
        sums = self._of_all_processes(self._train_sums)
        self._check_finite(sums[0], None)
        means = self.means(sums)
        self._train_sums = torch.zeros_like(self._train_sums)
        metrics = {f"train/{key}": value for key, value in means.items()}
        metrics["lr"] = self._epoch_rate()
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
        self._begin_evaluation()

    def on_test_epoch_start(self) -> None:
        """Quantize the weights, once for all batches, and forget an earlier test."""
        self._begin_evaluation()
        if self.classifies:
            self.confusion.reset()
        if self.top5 is not None:
            self.top5.reset()
        self.outputs, self.labels, self.test_losses = [], [], []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to loss and accuracy."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/loss`` and, of a classifier, ``val/acc``."""
        self._end_evaluation("val", {})

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to all scores, and keep what the first output answers."""
        answers, losses = self._evaluate(batch)
        if self.classifies:
            self.confusion.update(answers, batch[1])
            if self.top5 is not None:
                self.top5.update(answers, batch[1])
        else:
            self.test_losses.append(losses.cpu())
        self.outputs.append(answers.cpu())
        self.labels.append(batch[1].cpu())

    def on_test_epoch_end(self) -> None:
        """Log ``test/loss`` and, of a classifier, ``test/acc`` and ``test/top5``."""
        self._end_evaluation(
            "test", {} if self.top5 is None else {"top5": self.top5.compute().item()}
        )

    def evaluate_batch(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sums of one batch, which :meth:`means` divides.

        Raises:
            TrainingError: if its loss is not finite.
        """
        images, labels = images.to(self.device), labels.to(self.device)
        outputs = as_tuple(self.model(images))
        sums = self._sums(self._losses(outputs, images, labels), outputs, labels)
        if not math.isfinite(sums[0].item()):
            raise TrainingError(self._not_finite("a batch", sums[0].item(), [images]))
        return sums

    def means(self, sums: Tensor) -> dict[str, float]:
        """Return mean ``loss`` and, of a classifier, ``acc`` from sums over batches."""
        loss, correct, count = sums.tolist()
        count = max(count, 1)
        return {"loss": loss / count} | ({"acc": correct / count} if self.classifies else {})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        checkpoint["train_sums"] = self._of_all_processes(self._train_sums).tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of the epoch that was interrupted."""
        self._train_sums = torch.zeros(3)
        if self.global_rank == 0:  # the others go on from nothing: all are added up in the end
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

    def _epoch_of_phase(self) -> int:
        """Return the number of the epoch, counted from 1 in its phase."""
        return int(self.position(self.current_epoch)[0]) + 1

    def _epoch_rate(self) -> float:
        """Return the learning rate of the first group at the epoch's start.

        Its scheduler is already at the end.
        """
        group = self.trainer.optimizers[0].param_groups[0]
        factor = self.solver.lr_factor(*self.position(self.current_epoch), group["name"])
        return float(group["initial_lr"]) * factor

    def _losses(self, outputs: Sequence[Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, ``(N,)``, summed over the outputs."""
        parts = [
            loss(output, images, labels) for loss, output in zip(self.losses, outputs, strict=True)
        ]
        return reduce(torch.add, parts)

    def _sums(self, losses: Tensor, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return summed loss, correct answers and number of the images that count."""
        first = self.losses[0]
        correct = first.correct(outputs[0], labels)
        return torch.stack([losses.sum(), correct, first.counts(labels).sum()])

    def _evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add a batch to the sums; return the answers of the first output, and all losses."""
        images, labels = batch
        outputs = as_tuple(self.model(images))
        losses = self._losses(outputs, images, labels)
        self._evaluation_sums += self._sums(losses, outputs, labels)
        return self.losses[0].answers(outputs[0]), losses

    def _of_all_processes(self, sums: Tensor) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        return total

    def _begin_evaluation(self) -> None:
        hold_weights(self.model)
        self._watch = CollapseWatch(self.model)
        self._evaluation_sums = torch.zeros(3, device=self.device)

    def _end_evaluation(self, stage: str, more: dict[str, float]) -> None:
        if stage == "test" and any(answers.isnan().any() for answers in self.outputs):
            self._evaluation_sums[0] = torch.nan  # of an image that does not count
        sums = self._of_all_processes(self._evaluation_sums)
        if not math.isfinite(loss := sums[0].item()):
            part = "the test" if stage == "test" else "the validation"
            raise TrainingError(self._not_finite(part, loss, self._evaluated_images(stage)))
        release_weights(self.model)
        before, self.collapsed = self.collapsed, self._collapsed()
        if stage == "val" and self.trainer.is_global_zero:
            new = [words for name, words in self.collapsed.items() if name not in before]
            where = f"epoch {self._epoch_of_phase()} of {self.phase_name}"
            for line in warnings_of(f"{where}: {words}" for words in new):
                say(line)
        self.tested = int(sums[2])
        metrics = {**self.means(sums), **more}
        for key, value in metrics.items():
            self.log(f"{stage}/{key}", value, prog_bar=True)

    def _collapsed(self) -> dict[str, str]:
        """Return what is wrong with quantizers, by what all processes have seen."""
        assert self._watch is not None
        found, self._watch = self._watch.end(), None
        flags = torch.tensor([float(bool(x)) for x in found.values()], device=self.device)
        everywhere = self._of_all_processes(flags) == self.trainer.world_size
        return {
            name: words
            for (name, words), all_agree in zip(found.items(), everywhere.tolist(), strict=True)
            if all_agree
        }

    def _evaluated_images(self, stage: str) -> Iterator[Tensor]:
        """Yield the images of the evaluation that ends, once more."""
        trainer = self.trainer
        loader: Any = trainer.test_dataloaders if stage == "test" else trainer.val_dataloaders
        for images, _ in loader:
            yield trainer.precision_plugin.convert_input(images).to(self.device)

    def _not_finite(self, part: str, loss: float, batches: Iterable[Tensor]) -> str:
        """Return what to tell of an evaluation whose loss is not finite.

        Args:
            part: of the data.
            loss: of these images.
            batches: images ``(N, C, H, W)``, on the model's device.
        """
        with self.trainer.precision_plugin.forward_context():
            found = (first_not_finite(self.model, images) for images in batches)
            culprit = next(filter(None, found), "all layers put out finite values")
        where = f"the loss of {part} is {loss} in the {self.phase_name} phase"
        if self.trainer.state.fn is not TrainerFn.FITTING:
            return f"{where}: {culprit}; these weights cannot be used"
        return f"{where}, epoch {self._epoch_of_phase()}: {culprit}; {self._smaller_steps()}"

    def _smaller_steps(self) -> str:
        group = self.trainer.optimizers[0].param_groups[0]
        return (
            f"lower {self.solver.lr_key(group['name'])} (now at {group['lr']:g}) or set "
            "trainer.gradient_clip_val"
        )

    def _check_finite(self, loss: Tensor, batch_idx: int | None) -> None:
        if math.isfinite(loss.item()):
            return
        where = f"epoch {self._epoch_of_phase()}"
        where += "" if batch_idx is None else f", batch {batch_idx + 1}"
        bad = [n for n, p in self.model.named_parameters() if not p.isfinite().all()]
        layer = f" and {bad[0]} holds values that are not finite" if bad else ""
        raise TrainingError(
            f"the loss is {loss.item()} in {where} of the {self.phase_name} phase{layer}; "
            f"{self._smaller_steps()}"
        )
