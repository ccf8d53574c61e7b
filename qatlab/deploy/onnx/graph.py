"""Builds ONNX graphs: nodes, constants, and a file that has been checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from qatlab.deploy.integer.operations import NO_SIDES, Integers, Sides, Windowed
from qatlab.errors import ConfigError

PRODUCER = "qatlab"
IR_VERSIONS = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}  # the first one that has an opset
LOWEST_IR = 8  # of all others
# By the highest opset that it takes, the first onnxruntime that does, with its IR version and, from
# 21 and 25 on, constants of 4 and 2 bits: from 19 on tried, the others by its release notes.
RUNTIMES = {
    **{15: "1.10", 17: "1.12", 18: "1.14", 19: "1.16", 20: "1.17"},
    **{21: "1.19", 22: "1.21", 23: "1.23", 25: "1.24"},
}
# Types of whole numbers, the narrowest first: opset from which there are constants of them, range.
NARROW: dict[int, tuple[int, int, int]] = {
    TensorProto.INT2: (25, -2, 1),
    TensorProto.UINT2: (25, 0, 3),
    TensorProto.INT4: (21, -8, 7),
    TensorProto.UINT4: (21, 0, 15),
    TensorProto.INT8: (13, -128, 127),
    TensorProto.UINT8: (13, 0, 255),
    TensorProto.INT16: (21, -(1 << 15), (1 << 15) - 1),
    TensorProto.UINT16: (21, 0, (1 << 16) - 1),
}
LARGEST = (1 << 31) - 1  # bytes of a file: of a message of protobuf


def container(low: int, high: int, opset: int, of_bytes: bool = False) -> int | None:
    """Return the narrowest type of ONNX that holds whole numbers, None if there is none.

    Args:
        low: the smallest number; below 0 for a signed type.
        high: the largest one.
        opset: of the file.
        of_bytes: no narrower type than a byte, for what is computed with.
    """
    for kind, (first_opset, lowest, highest) in NARROW.items():
        signed = lowest < 0
        if of_bytes and highest - lowest < 255:
            continue
        if signed == (low < 0) and opset >= first_opset and lowest <= low and high <= highest:
            return kind
    return None


def ir_version(opset: int) -> int:
    """Return the version of the file's own format."""
    return IR_VERSIONS.get(opset, LOWEST_IR)


def runtime(opset: int) -> str:
    """Return "IR version 10, opset 21: onnxruntime 1.19 or later"."""
    first = next(version for highest, version in RUNTIMES.items() if opset <= highest)
    return f"IR version {ir_version(opset)}, opset {opset}: onnxruntime {first} or later"


class Graph:
    """A graph that grows node by node.

    Args:
        opset: of the file.
        reserved: names that are given on demand only: those of layers and sites.
        domain: a further domain of operators, or "".
        batch: how many images the file takes: a number, or a name for any.
    """

    def __init__(
        self, opset: int, reserved: Iterable[str], domain: str = "", batch: int | str = "N"
    ) -> None:
        self.opset, self.domain, self._reserved = opset, domain, frozenset(reserved)
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._names: set[str] = set()

    def node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output.

        Args:
            kind: the operator.
            inputs: names of tensors.
            name: or one like it that is still free; a number for what nobody looks for.
            attributes: of the operator; what is None is left out.
        """
        output = self._free(name)
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def take(self, node: onnx.NodeProto, inputs: Sequence[str]) -> list[str]:
        """Add a node that was made elsewhere, and return the names of its outputs.

        Args:
            node: its operator and attributes are taken.
            inputs: names of tensors of this graph.
        """
        outputs = [self._free("") if name else "" for name in node.output]
        made = helper.make_node(node.op_type, inputs, outputs, domain=node.domain)
        made.attribute.extend(node.attribute)
        self.nodes.append(made)
        return outputs

    def constant(self, values: ArrayLike, name: str = "", kind: int | None = None) -> str:
        """Add a constant, and return its name; what is there already is not stored twice.

        Args:
            values: of the type that it is stored in, unless ``kind`` says another one.
            name: see :meth:`node`.
            kind: one of onnx.TensorProto's types.
        """
        array = np.asarray(values)
        key = (array.tobytes(), array.shape, array.dtype.str, kind)
        if key not in self._known:
            own = self._known[key] = self._free(name)
            if kind is None:
                tensor = numpy_helper.from_array(array, own)
            else:
                tensor = _packed(array, own, kind)
            self._constants[own] = tensor
        return self._known[key]

    def _free(self, name: str) -> str:
        number, found = len(self._names), name or str(len(self._names))
        while found in self._names or (found in self._reserved and not name):
            number, found = number + 1, f"{name}_{number}" if name else str(number)
        self._names.add(found)
        return found

    def input(self, name: str, kind: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
        """Return what declares an input ``(N, *shape)``."""
        self._names.add(name)
        return helper.make_tensor_value_info(name, kind, [self.batch, *shape])

    def in_shape(
        self,
        answer: str,
        shape: Sequence[int],
        wanted: Sequence[int],
        places: Integers | None,
    ) -> tuple[str, Sequence[int]]:
        """Return an answer in the shape that it has in the network, and that shape.

        Args:
            answer: name of a node's output.
            shape: of the answer to one image.
            wanted: in the network; what is one number for each class is made flat.
            places: for each number of the network's answer, its number in this one.
        """
        if places is not None:
            answer, shape = self.node("Flatten", [answer], axis=1), (math.prod(shape),)
            if not np.array_equal(places, np.arange(len(places))):
                numbers = self.constant(np.asarray(places, np.int64))
                answer, shape = self.node("Gather", [answer, numbers], axis=1), (len(places),)
        if math.prod(wanted[1:]) == 1:
            wanted = (math.prod(shape),)
        if tuple(shape) == tuple(wanted):
            return answer, wanted
        if len(wanted) == 1:
            return self.node("Flatten", [answer], axis=1), wanted
        sizes = self.constant(np.array([-1, *wanted]))
        return self.node("Reshape", [answer, sizes]), wanted

    def model(
        self,
        image: onnx.ValueInfoProto,
        answer: str,
        kind: int,
        shape: Sequence[int],
        facts: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Return the file, checked with its shapes.

        Args:
            image: the input.
            answer: name of a node's output.
            kind: its type.
            shape: of the answer to one image.
            facts: become the file's metadata.

        Raises:
            ConfigError: for a file of more than 2 GB.
        """
        size = sum(len(constant.raw_data) for constant in self._constants.values())
        if size > LARGEST:
            raise ConfigError(
                f"the file would have {size / 1e9:.1f} GB, and ONNX files have at most 2.1; "
                "qonnx stores weights as floats, qdq and integer at their bits."
            )
        output = helper.make_tensor_value_info(answer, kind, [self.batch, *shape])
        graph = helper.make_graph(
            self.nodes, PRODUCER, [image], [output], list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=ir_version(self.opset),
            producer_name=PRODUCER,
        )
        helper.set_model_props(model, dict(facts))
        onnx.checker.check_model(model, full_check=not self.domain)
        return model


def window(op: Windowed, padding: Sides | None = None) -> dict[str, Any]:
    """Return the attributes of a convolution or a pooling; None for what is the default.

    Args:
        op: the operation.
        padding: instead of its own.
    """
    padding = op.padding if padding is None else padding
    (top, bottom), (left, right) = padding
    return {
        "kernel_shape": list(op.kernel),
        "strides": list(op.stride) if max(op.stride) > 1 else None,
        "pads": [top, left, bottom, right] if padding != NO_SIDES else None,
        "dilations": list(op.dilation) if max(op.dilation) > 1 else None,
    }


def _packed(array: NDArray[Any], name: str, kind: int) -> onnx.TensorProto:
    """Return a constant of whole numbers, of 2 or 4 bits without gaps between them."""
    _, low, high = NARROW[kind]
    bits = (high - low).bit_length()
    if bits >= 8:
        return numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
    per_byte = 8 // bits
    flat = array.ravel().astype(np.int64) & ((1 << bits) - 1)
    flat = np.pad(flat, (0, -len(flat) % per_byte)).reshape(-1, per_byte)
    raw = (flat << (bits * np.arange(per_byte))).sum(1).astype(np.uint8).tobytes()
    return helper.make_tensor(name, kind, array.shape, raw, raw=True)
