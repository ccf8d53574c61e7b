"""What a run says at its end: scores, pictures and the files that hold them."""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from qatlab import figures
from qatlab.errors import ConfigError
from qatlab.quant import ModelTable, Quantizer
from qatlab.scores import Scores, n2d2_lines
from qatlab.training.classifier import Classifier
from qatlab.training.csv_logger import FILE_NAME, read_rows


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


def print_table(table: ModelTable) -> None:
    """Print the resolved table of layers and sites, and the size of the model."""
    grid = Table(title="Layers and sites", title_justify="left")
    for name in ("layer", "type", "shape", "weight bits", "activation bits"):
        grid.add_column(name, justify="right" if "bits" in name else "left")
    for name in ("grid", "scaling", "decided by", "parameters"):
        grid.add_column(name, justify="right" if name == "parameters" else "left")
    for layer in table.layers:
        bits = "float" if layer.bits is None else str(layer.bits)
        facts = layer.quantizer
        on_grid = facts.get("grid", "")
        if layer.part == "activation" and layer.bits is not None:
            on_grid = "signed" if facts.get("signed") else "unsigned"
        grid.add_row(
            layer.name,
            layer.type,
            "x".join(map(str, layer.shape if layer.part == "weight" else layer.shape[1:])),
            bits if layer.part == "weight" else "",
            bits if layer.part == "activation" else "",
            on_grid,
            "yes" if facts.get("scaling") else "",
            ", ".join(layer.rules),
            str(layer.parameters or ""),
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 130))  # in a log file nothing has to be cut
    console.print(grid)
    print(
        f"{table.parameters:,} parameters; {table.size_bytes:,} bytes at these bits, "
        f"{table.float_bytes:,} in float32 ({table.float_bytes / table.size_bytes:.2f} times as "
        "many), batch norm absorbed"
    )


def print_result(result: dict[str, Any], evaluation: Evaluation, folder: Path) -> None:
    """Print the report of a finished run."""
    print()
    for line in lines(evaluation, digits=4):
        print(line)
    epochs = " + ".join(f"{count} {phase}" for phase, count in result["epochs"].items())
    best = ", ".join(
        f"epoch {facts['epoch']} of {phase}"
        + (f" (val/acc {facts['val/acc']:.2%})" if "val/acc" in facts else "")
        for phase, facts in result["best"].items()
    )
    print(f"    Size: {result['size_bytes']:,} bytes / Epochs: {epochs} / Kept: {best}")
    print(f"    {result['seconds']:.0f} s of training; report in {folder}")


def write_figures(
    folder: Path, module: Classifier, evaluation: Evaluation, class_names: tuple[str, ...]
) -> None:
    """Draw learning curves, the confusion matrix and the weights of each quantized layer."""
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    if (folder / FILE_NAME).exists():
        figures.learning_curves(read_rows(folder / FILE_NAME), pictures / "learning_curves.png")
    figures.confusion_matrix(evaluation.confusion, class_names, pictures / "confusion_matrix.png")
    layers = []
    for name, layer in module.model.named_modules():
        quantizer = getattr(layer, "weight_quantizer", None)
        if isinstance(quantizer, Quantizer):
            weight = layer.get_parameter("weight").detach()
            with torch.no_grad():
                quantized = quantizer(weight)
            layers.append(
                (
                    name,
                    weight.flatten().cpu().numpy(),
                    quantized.flatten().cpu().numpy(),
                    quantizer.bits,
                )
            )
    if layers:
        figures.weight_histograms(layers, pictures / "weights.png")


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
