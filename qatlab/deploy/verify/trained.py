"""All forms of a trained network, and the images that they are compared on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qatlab.data import ImageModule
from qatlab.deploy.c_file import c_file
from qatlab.deploy.integer import IntegerNetwork, with_rescale
from qatlab.deploy.integer.lowering import try_to_lower
from qatlab.deploy.integer.operations import AS_GIVEN
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.targets import HOST, Firmware, HostProgram, Target
from qatlab.deploy.trained import Trained
from qatlab.deploy.verify.forms import (
    AsIntegers,
    Form,
    InOnnxruntime,
    OnTarget,
    as_weights,
    read_onnx,
)
from qatlab.errors import ConfigError, wrong
from qatlab.quant.learned import ActivationQuantizer

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


def integers_of(trained: Trained) -> tuple[IntegerNetwork | None, str]:
    """Return the integer network of a trained one, or None and why there is none."""
    try:
        codes = pixel_codes(trained.data)
    except ConfigError as error:
        return None, str(error)
    network, obstacles = try_to_lower(trained.model, codes, trained.data.example_input())
    if obstacles:
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        return None, f"{obstacles[0].reason}{more}"
    return network, ""


def sites_of(trained: Trained) -> IntegerNetwork | Mapping[str, float]:
    """Return what names the sites of files of floats, where there is no integer network."""
    data = trained.data
    codes = [AS_GIVEN] * data.in_channels
    network, obstacles = try_to_lower(trained.model, codes, data.example_input())
    if not obstacles:
        return network
    return {
        path: float(module.grid.step(module.size.detach().double()))
        for path, module in trained.model.named_modules()
        if isinstance(module, ActivationQuantizer)
    }


def forms_of(
    trained: Trained,
    network: IntegerNetwork | None,
    rescales: Sequence[str],
    files: Sequence[Path],
    tolerance: float,
) -> list[Form]:
    """Return the forms beside the fake-quantized network and exact integers.

    Args:
        trained: the network.
        network: the same in whole numbers; None where it has no such form.
        rescales: of further integer networks.
        files: written of it; without any, a new one.
        tolerance: share of images that may get another class in whole numbers.
    """
    forms: list[Form] = [
        AsIntegers(with_rescale(network, rescale), rescale, tolerance)
        for rescale in rescales
        if rescale != "float" and network is not None
    ]
    given = [(str(path), *read_onnx(path)) for path in files]
    if not given and can_make_onnx():
        from qatlab.deploy.onnx_file import onnx_file

        given = [("onnx qdq", onnx_file(trained, "qdq"), "qdq")]
    sites = sites_of(trained) if network is None else network
    for name, file, kind in given:
        if kind == "integer" and network is None:
            raise ConfigError(f"{name} holds whole numbers, and so is no file of this network.")
        own = tolerance if kind == "integer" else 0.0
        forms += [InOnnxruntime(name, file, kind, sites, way, own) for way in (False, True)]
    return forms


def on_target(
    trained: Trained,
    network: IntegerNetwork | None,
    why_not: str,
    target: Target | None,
    rescales: Sequence[str] | None,
    tolerance: float,
) -> list[Form]:
    """Return integers, and the C program on a core or on this machine.

    Args:
        trained: the network.
        network: the same in whole numbers; None where it has no such form.
        why_not: the reason for that.
        target: the core; None for this machine.
        rescales: how both rescale, one word; None for the default.
        tolerance: share of images that may get another class.

    Raises:
        ConfigError: without whole numbers, or a program.
    """
    if network is None:
        raise ConfigError(f"--target runs a C program, of which there is none: {why_not}")
    rescale = rescales[0] if rescales else "fixed32"
    integers = AsIntegers(with_rescale(network, rescale), rescale, tolerance)
    program = c_file(trained, rescale)
    built: Firmware | HostProgram
    if target is None:
        built = HostProgram(program.source, program.is_whole)
    else:
        built = Firmware(program.source, program.is_whole, target)
    runs = OnTarget(HOST if target is None else target.name, built, integers, tolerance)
    return [runs] if integers.is_exact else [integers, runs]


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
    returned = trained.model(as_weights(trained.model, trained.data.example_input()))
    first = returned if isinstance(returned, Tensor) else returned[0]  # the one that is scored
    return int(first.flatten(1).shape[1])
