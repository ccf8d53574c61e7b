"""How the codes of weights are stored: in the narrowest type that ONNX has for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import Codes, Integers
from qatlab.deploy.onnx import OPSETS
from qatlab.deploy.onnx.graph import NARROW, container
from qatlab.deploy.onnx.moves import WRAPS
from qatlab.deploy.onnx.readers import Reader
from qatlab.errors import ConfigError


class Stored(NamedTuple):
    """``codes = gap * numbers + base``.

    Attributes:
        numbers: shape of the codes.
        kind: type that they are stored in.
        gap: 2 where all codes are odd, as on SAT's grid without zero, or all are even.
        base: 1 for odd ones.
    """

    numbers: Integers
    kind: int
    gap: int
    base: int


def stored(codes: Integers, opset: int, name: str) -> Stored:
    """Return the numbers to store for the codes of weights.

    Args:
        codes: any shape.
        opset: of the file.
        name: of the layer.

    Raises:
        ConfigError: if no type of that opset holds them.
    """
    direct = container(min(int(codes.min()), -1), int(codes.max()), opset)
    base = int(codes.flat[0]) % 2
    halves = (codes - base) // 2
    if np.all(codes % 2 == base):
        kind = container(min(int(halves.min()), -1), int(halves.max()), opset)
        if kind is not None and kind != direct:
            return Stored(halves, kind, 2, base)
    if direct is None:
        raise ConfigError(
            f"{name}: weights of {width(codes)} bits need --opset 21 or higher; opset {opset} has "
            "integers of 8 bits at most."
        )
    return Stored(codes, direct, 1, 0)


def width(codes: Integers) -> int:
    """Return the bits that hold codes with their sign, or half of them if all are odd or even."""
    base = int(codes.flat[0]) % 2
    if np.all(codes % 2 == base):
        codes = (codes - base) // 2
    return max(int(-codes.min() - 1).bit_length(), int(codes.max()).bit_length()) + 1


def lowest_opset(network: IntegerNetwork, kind: str, reader: Reader) -> int:
    """Return the lowest opset of a reader that has all types and operators of a network.

    Weights are stored at their width from there on, codes of sites in bytes or 16 bits, if the
    reader takes such an opset; its highest is returned if not.

    Args:
        network: the operations.
        kind: ``integer``, ``qdq`` or ``qonnx``, in which weights and codes are floats.
        reader: of the file.

    Raises:
        ConfigError: if no opset stores its weights.
    """
    lowest, highest = reader.opsets
    found = [lowest, *(WRAPS for op in network.of(ops.Pad) if op.mode == "circular")]
    if kind != "qonnx":
        layers: list[ops.Convolve | ops.Multiply] = [*network.of(ops.Convolve)]
        layers += network.of(ops.Multiply)
        found += [opset_of_weights(op.weight, op.name) for op in layers]
        codes, sites = (
            network.codes,
            (op for op in network.operations if op.group is ops.Group.SITE),
        )
        found += [opset_of_site(codes[op.name]) for op in sites]
    return min(max(found), highest)


def opset_of_weights(codes: Integers, name: str) -> int:
    """Return the lowest opset that stores weights at their width; of the layer ``name``.

    Raises:
        ConfigError: if none does.
    """
    return NARROW[stored(codes, OPSETS[1], name).kind][0]


def opset_of_site(codes: Codes) -> int:
    """Return the lowest opset that has bytes, or 16 bits, for the codes of a site."""
    lowest, highest = OPSETS
    kind = container(min(codes.low, 0), codes.high, highest, of_bytes=True)
    return lowest if kind is None else NARROW[kind][0]
