"""What a finished run prints and draws."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qatlab.quant import ModelTable, Quantizer
from qatlab.results import figures
from qatlab.results.quantizer_curves import monitored, quantizer_curves
from qatlab.run.evaluation import Evaluation, lines
from qatlab.system.terminal import say
from qatlab.training.classifier import Classifier
from qatlab.training.csv_logger import FILE_NAME, read_rows
from qatlab.training.progress import format_metric


def print_result(
    result: dict[str, Any], evaluation: Evaluation, table: ModelTable, folder: Path
) -> None:
    """Print the report of a finished run."""
    say("")
    for line in lines(evaluation, digits=4):
        say(line)
    epochs = " + ".join(f"{count} {phase}" for phase, count in result["epochs"].items())
    best = ", ".join(
        f"epoch {facts['epoch'] - _epochs_before(phase, result['epochs'])} of {phase}"
        + "".join(f" ({k} {format_metric(k, v)})" for k, v in facts.items() if k != "epoch")
        for phase, facts in result["best"].items()
    )
    say(f"    Size: {result['size_bytes']:,} bytes / Epochs: {epochs} / Best: {best}")
    if line := table.float_weights():
        say(f"    {line}")
    say(f"    trained in {result['seconds']:.0f} s; report in {folder}")


def _epochs_before(phase: str, epochs: Mapping[str, int]) -> int:
    """Return how many epochs the phases before one have; of best epochs the whole run counts."""
    names = list(epochs)
    return sum(epochs[name] for name in names[: names.index(phase)]) if phase in epochs else 0


@contextmanager
def may_fail(what: str) -> Iterator[None]:
    """Turn a failure of what a finished run does not need into a warning."""
    try:
        yield
    except Exception as error:  # of fonts, servers, disks: anyone's
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        print(f"Warning: {what}: {reason}", file=sys.stderr)


def write_figures(
    folder: Path,
    name: str,
    module: Classifier,
    evaluation: Evaluation,
    class_names: tuple[str, ...],
) -> None:
    """Draw learning curves, quantizers, the confusion matrix and the quantized weights.

    Each is written as PNG, SVG and PDF, with the run's name and the name of its folder on it.

    One that cannot be drawn is left out, and a line says so.
    """
    pictures, rows, title = folder / "figures", [], f"{name}   {folder.name}"
    with may_fail(f"{FILE_NAME} is not drawn"):
        rows = read_rows(folder / FILE_NAME) if (folder / FILE_NAME).exists() else []
    if rows:
        with _figure(pictures / "learning_curves") as path:
            figures.learning_curves(rows, path, title)
    if monitored(rows):
        with _figure(pictures / "quantizers") as path:
            quantizer_curves(rows, path, title)
    if evaluation.classes is not None:
        with _figure(pictures / "confusion_matrix") as path:
            figures.confusion_matrix(evaluation.classes.confusion, class_names, path, title)
    with _figure(pictures / "weights") as path:
        if layers := _quantized_layers(module):
            figures.weight_histograms(layers, path, title)


@contextmanager
def _figure(path: Path) -> Iterator[Path]:
    with may_fail(f"{path.parent.name}/{path.name} is not drawn"):
        yield path


@torch.no_grad()
def _quantized_layers(
    module: Classifier,
) -> list[tuple[str, figures.Array, figures.Array, int]]:
    """Return name, float weights, quantized weights and bits of each layer that has bits."""
    layers = []
    for name, layer in module.model.named_modules():
        quantizer = getattr(layer, "weight_quantizer", None)
        if isinstance(quantizer, Quantizer):
            weight = layer.get_parameter("weight").detach()
            both = (x.flatten().cpu().numpy() for x in (weight, quantizer(weight)))
            layers.append((name, *both, quantizer.bits))
    return layers
