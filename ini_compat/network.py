"""What is understood of an N2D2 project: data, cells, solvers, targets, and what was lost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from typing import Any

from ini_compat.errors import Deviation, IniError, Place

Shape = tuple[int, int, int]  # channels, height, width
Node = dict[str, Any]  # a mapping as it will stand in the experiment

ENVIRONMENTS = ("sp", "env", "cenv")  # three names of the network's input
IMAGE = "image"  # what the layer graph calls it


@dataclass(frozen=True)
class Quantizer:
    """``QWeight`` or ``QAct`` of a cell.

    Attributes:
        method: ``SAT`` or ``LSQ``.
        arguments: of the quantizer class, without those that have their default.
    """

    method: str
    arguments: Node

    @property
    def n_steps(self) -> int:
        """N2D2's Range."""
        return int(self.arguments.get("n_steps") or (1 << int(self.arguments["bits"])) - 1)


def bits_node(n_steps: int) -> Node:
    """Return ``{bits: b}`` for 2^b - 1 steps, else ``{n_steps: R}``."""
    bits = n_steps.bit_length()
    return {"bits": bits} if n_steps == (1 << bits) - 1 else {"n_steps": n_steps}


@dataclass
class Cell:
    """One cell, and the layers of the layer graph that compute it.

    Attributes:
        name: N2D2's name.
        type: N2D2's Type, or the operator of an ONNX node.
        inputs: names of its parents; ``image`` for the environment.
        place: where its section begins.
        layers: by layer name; an empty mapping for a cell that computes nothing.
        output: name of the layer whose output is the cell's.
        input_shapes: one for each parent; empty for a cell that is refused.
        shape: of the output; None if it is not known.
        weight: quantizer of the weights.
        activation: quantizer of the output.
        site: name of the layer that stands for ``activation``.
        solvers: group settings by name of the parameter in the state dict.
        parameters: number of trained values.
        files: N2D2's weight files by what they hold; see ``weights.py``.
        with_loss: ``softmax`` or ``logistic`` if its last function belongs to the loss.
    """

    name: str
    type: str
    inputs: list[str]
    place: Place
    layers: dict[str, Node] = field(default_factory=dict)
    output: str = ""
    input_shapes: list[Shape] = field(default_factory=list)
    shape: Shape | None = None
    weight: Quantizer | None = None
    activation: Quantizer | None = None
    site: str = ""
    solvers: dict[str, Node] = field(default_factory=dict)
    parameters: int = 0
    files: list[ParameterFile] = field(default_factory=list)
    with_loss: str = ""


@dataclass(frozen=True)
class ParameterFile:
    """One ``.syntxt`` file of a cell.

    Attributes:
        stem: file name without ``.syntxt``.
        key: of the state dict.
        shape: of the tensor there.
        kind: ``conv``, ``deconv``, ``linear``, ``vector`` or ``scalar``: the order of the numbers.
        mapping: rows of 0 and 1, input channels by outputs, where connections are missing.
        optional: N2D2 itself starts from a default where the file is missing.
        quantizer: extra state of the quantizer the value belongs to, "" for others.
        swapped: whether the numbers stand in N2D2's other export format (HWCO, CO).
        flipped: whether WeightsExportFlip is set.
        groups: of a convolution or a deconvolution.
    """

    stem: str
    key: str
    shape: tuple[int, ...]
    kind: str
    mapping: tuple[str, ...] | None = None
    optional: bool = False
    quantizer: str = ""
    swapped: bool = False
    flipped: bool = False
    groups: int = 1

    @property
    def count(self) -> int:
        """How many numbers the file holds."""
        if self.mapping is None:
            return prod(self.shape)
        connected = sum(row.count("1") for row in self.mapping)
        return connected * prod(self.shape[2:])


def file_name(cell: str) -> str:
    """Return what the names of a cell's weight files begin with."""
    return re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", cell)


@dataclass
class Target:
    """``[cell.Target]``: what the network is trained for."""

    cell: str
    place: Place
    loss: Node


@dataclass
class Data:
    """Database, environment and transformations.

    Attributes:
        node: ``data`` of the experiment.
        shape: of the image that the network sees.
        batch_size: images per training batch.
        training_images: number of images to learn from; None if it is not known.
        classes: number of classes; None if it is not known.
    """

    node: Node
    shape: Shape
    batch_size: int
    training_images: int | None = None
    classes: int | None = None


@dataclass
class Network:
    """Everything that was understood, in the order of computation."""

    name: str
    source: str
    data: Data
    cells: dict[str, Cell] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    iteration_size: int = 1
    epochs: int | None = None
    weights: dict[str, Any] = field(default_factory=dict)  # numpy arrays by key, of an ONNX file
    deviations: list[Deviation] = field(default_factory=list)
    problems: list[IniError] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
