"""What a model scored on the test set, as numbers and as N2D2's lines."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qatlab.errors import ConfigError, DataError
from qatlab.quant import warnings_of
from qatlab.results.scores import Scores, area_under_roc, n2d2_lines
from qatlab.system.files import write_bytes
from qatlab.training.classifier import Classifier


@dataclass(frozen=True)
class ClassScores:
    """How often a model found the class of an image.

    Attributes:
        top1: share of images whose highest output is the label.
        top5: share of images whose label is among the five highest outputs; None where there are no
            more than five classes.
        scores: N2D2's scores, macro averages from the confusion matrix.
        confusion: counts ``[label][answer]``.
    """

    top1: float
    top5: float | None
    scores: Scores
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, module: Classifier) -> ClassScores:
        """Read the scores off a module whose test has just ended."""
        metrics = module.trainer.callback_metrics
        confusion = module.confusion.compute().cpu().numpy().astype(np.int64)
        return cls(
            top1=metrics["test/acc"].item(),
            top5=metrics["test/top5"].item() if "test/top5" in metrics else None,
            scores=Scores.from_confusion(confusion),
            confusion=confusion,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``result.json`` holds; accuracies are fractions."""
        return {
            "top1": self.top1,
            **({} if self.top5 is None else {"top5": self.top5}),
            **asdict(self.scores),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on the test set.

    Attributes:
        phase: phase that its quantizers were in.
        loss: mean loss.
        images: number of images that counted.
        classes: None for a model that does not classify.
        auc: of such a model, how well its loss tells anomalies (class 1) from normal images (class
            0); None where the test images are not of these two.
        collapsed: what is wrong with each quantizer that has collapsed.
    """

    phase: str
    loss: float
    images: int
    classes: ClassScores | None
    auc: float | None = None
    collapsed: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: Classifier) -> Evaluation:
        """Read the scores off a module whose test has just ended.

        Raises:
            DataError: if no image counted.
        """
        if module.tested == 0:
            raise DataError("there is nothing to test: no image of the test set has a label")
        return cls(
            phase=module.phase_name,
            loss=module.trainer.callback_metrics["test/loss"].item(),
            images=module.tested,
            classes=ClassScores.of(module) if module.classifies else None,
            auc=_auc(module),
            collapsed=tuple(module.collapsed.values()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        test = {"phase": self.phase, "images": self.images, "loss": self.loss}
        if self.auc is not None:
            test["auc"] = self.auc
        return {"test": test | ({} if self.classes is None else self.classes.to_json())}


def _auc(module: Classifier) -> float | None:
    """Return the AUC of the losses of a test; None without anomalies and normal images.

    Each process of several has a part of the images only, and none is returned.
    """
    if module.classifies or module.num_classes != 2 or module.trainer.world_size > 1:
        return None
    each = module.images_per_score
    losses = torch.cat(module.test_losses).double()
    scored = len(losses) // each * each  # of a test that is cut short
    means = losses[:scored].view(-1, each).mean(1).numpy()
    anomalies = torch.cat(module.labels)[:scored:each].numpy() == 1
    return area_under_roc(means, anomalies) if 0 < anomalies.sum() < len(anomalies) else None


def lines(evaluation: Evaluation, digits: int) -> list[str]:
    """Return N2D2's three lines, and one with top-1, top-5 and loss; without classes the loss.

    Behind them is a line for each quantizer that has collapsed.
    """
    of_what = f"({evaluation.images} test images, {evaluation.phase} phase)"
    loss = f"Loss: {evaluation.loss:.4f}    {of_what}"
    classes = evaluation.classes
    warnings = warnings_of(evaluation.collapsed)
    if classes is None:
        auc = "" if evaluation.auc is None else f"AUC: {evaluation.auc:.4f} / "
        return [f"    {auc}{loss}", *warnings]
    top = f"    Top-1: {classes.top1:.2%}"
    top += "" if classes.top5 is None else f" / Top-5: {classes.top5:.2%}"
    return [*n2d2_lines(classes.scores, digits), f"{top} / {loss}", *warnings]


def save_outputs(path: Path, module: Classifier) -> None:
    """Write ``outputs (N, classes)`` and ``labels (N,)`` in the order of the data set.

    Of a model that does not classify, outputs have their own shape; of a single output that decides
    between two classes, column 0 is the threshold.

    Raises:
        ConfigError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        outputs=torch.cat(module.outputs).numpy(),
        labels=torch.cat(module.labels).numpy(),
    )
    try:
        write_bytes(path, buffer.getvalue())
    except ConfigError as error:
        raise ConfigError(f"save_outputs={path}: {error}") from error
