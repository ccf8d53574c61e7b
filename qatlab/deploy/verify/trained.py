"""All forms of a trained network, and the images that they are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qatlab.data import ImageModule
from qatlab.deploy.integer import IntegerNetwork, with_rescale
from qatlab.deploy.trained import Trained
from qatlab.deploy.verify.forms import AsIntegers, Form, InOnnxruntime, read_onnx
from qatlab.errors import ConfigError, wrong

AT_ONCE = 100  # images: their tensors then stay in the processor's caches


def batches_of(data: ImageModule, part: str, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and labels of a part of the data, a few at a time."""
    data.setup("test" if part == "test" else "validate")
    loader: Any = data.test_dataloader() if part == "test" else data.val_dataloader()
    pieces = (
        (images[first : first + AT_ONCE], labels[first : first + AT_ONCE])
        for images, labels in loader
        for first in range(0, len(images), AT_ONCE)
    )
    if limit is None:
        yield from pieces
        return
    left = limit
    for images, labels in pieces:
        if left <= 0:
            return
        yield images[:left], labels[:left]
        left -= len(images)


def can_make_onnx() -> bool:
    """Tell whether the packages are there that an ONNX file is made and computed with."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def forms_of(
    trained: Trained,
    network: IntegerNetwork,
    rescales: Sequence[str],
    files: Sequence[Path],
    tolerance: float,
) -> list[Form]:
    """Return the forms beside the fake-quantized network and exact integers."""
    forms: list[Form] = [
        AsIntegers(with_rescale(network, rescale), rescale, tolerance)
        for rescale in rescales
        if rescale != "float"
    ]
    given = [(str(path), *read_onnx(path)) for path in files]
    if not given and can_make_onnx():
        from qatlab.deploy.onnx_file import onnx_file

        given = [("onnx qdq", onnx_file(trained, "qdq"), "qdq")]
    for name, file, kind in given:
        own = tolerance if kind == "integer" else 0.0
        forms += [InOnnxruntime(name, file, kind, network, way, own) for way in (False, True)]
    return forms


def check_outputs(trained: Trained, images: int | None) -> None:
    """Raise a ConfigError unless a network has outputs that can be compared, for some images."""
    if trained.classifies and trained.data.num_classes != _count(trained):
        raise ConfigError(
            "the classes of images are compared, which takes a network with an output for each."
        )
    if images is not None and images < 1:
        raise wrong("--images", images, "a whole number above 0")


@torch.no_grad()
def _count(trained: Trained) -> int:
    outputs = trained.model(trained.data.example_input())
    return int(outputs.flatten(1).shape[1]) if isinstance(outputs, Tensor) else 0
