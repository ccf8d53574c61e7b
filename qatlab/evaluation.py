"""What a model scored on the test set, as numbers and as N2D2's lines."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qatlab.errors import ConfigError
from qatlab.scores import Scores, n2d2_lines
from qatlab.training.classifier import Classifier


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on the test set.

    Attributes:
        phase: phase that its quantizers were in.
        loss: mean cross entropy.
        top1: share of images whose highest output is the label.
        top5: share of images whose label is among the five highest outputs.
        images: number of images.
        scores: N2D2's scores, macro averages from the confusion matrix.
        confusion: counts ``[label][answer]``.
    """

    phase: str
    loss: float
    top1: float
    top5: float
    images: int
    scores: Scores
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, module: Classifier) -> Evaluation:
        """Read the scores off a module whose test has just ended."""
        metrics = module.trainer.callback_metrics
        confusion = module.confusion.compute().cpu().numpy().astype(np.int64)
        return cls(
            phase=module.phase_name,
            loss=metrics["test/loss"].item(),
            top1=metrics["test/acc"].item(),
            top5=metrics["test/top5"].item(),
            images=int(confusion.sum()),
            scores=Scores.from_confusion(confusion),
            confusion=confusion,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``result.json`` holds; accuracies are fractions."""
        test = {
            "phase": self.phase,
            "images": self.images,
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            **asdict(self.scores),
            "confusion": self.confusion.tolist(),
        }
        return {"test": test}


def lines(evaluation: Evaluation, digits: int) -> list[str]:
    """Return N2D2's three lines, and one with top-1, top-5 and loss."""
    return [
        *n2d2_lines(evaluation.scores, digits),
        f"    Top-1: {evaluation.top1:.2%} / Top-5: {evaluation.top5:.2%} / "
        f"Loss: {evaluation.loss:.4f}    ({evaluation.images} test images, "
        f"{evaluation.phase} phase)",
    ]


def save_outputs(path: Path, module: Classifier) -> None:
    """Write ``outputs (N, classes)`` and ``labels (N,)`` in the order of the data set.

    Raises:
        ConfigError: if the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        outputs=torch.cat(module.outputs).numpy(),
        labels=torch.cat(module.labels).numpy(),
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write save_outputs={path}: {error.strerror}") from error
