"""What an ONNX file says, as plain values: nothing behind this module knows of protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ini_compat.errors import IniError, Place, quoted
from ini_compat.syntax.files import _read as read_bytes

try:
    import onnx
    from onnx import numpy_helper
except ImportError:
    raise IniError(
        "an ONNX file cannot be read without the package onnx: install it with pip install onnx"
    ) from None

Array: TypeAlias = npt.NDArray[Any]
Attribute: TypeAlias = int | float | str | list[int] | list[float] | Array

NEWEST = onnx.defs.onnx_opset_version()  # opset that is known here
MOST_BYTES = 1 << 30
MOST_NODES = 20_000
MOST_DIMENSIONS = 8
STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators
TYPES = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "INT32", "INT8", "UINT8", "BOOL")


@dataclass(frozen=True)
class OnnxNode:
    """One node of the graph.

    Attributes:
        operator: such as ``Conv``, with the domain in front if it is not ONNX's own.
        inputs: names; "" for one that is left out.
        outputs: names; the first one is what N2D2 calls the cell.
        attributes: by name; without those that hold graphs.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    @property
    def name(self) -> str:
        """N2D2's name: that of the first output."""
        return self.outputs[0]


@dataclass
class OnnxGraph:
    """A file.

    Attributes:
        place: the file.
        opset: version of the operators.
        inputs: sizes of the images and the like by name; None for a size that is open, and for
            all of them where the file says nothing.
        outputs: names.
        nodes: in the order of computation.
        constants: weights and other numbers by name.
    """

    place: Place
    opset: int = 1
    inputs: dict[str, list[int | None] | None] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    nodes: list[OnnxNode] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)


def read_onnx(path: str) -> OnnxGraph:
    """Read a file, and no other one: weights that lie elsewhere are refused.

    Raises:
        IniError: if it cannot be read, is no ONNX file or has more than a single plain graph.
    """
    place = Place(path, 0)
    data = read_bytes(path, path, MOST_BYTES, place)
    try:
        return _decoded(data, place)
    except IniError:
        raise
    except MemoryError:
        raise IniError("there is not enough memory to read the file", place) from None
    except Exception as error:  # protobuf and numpy name no common class of what they raise
        reason = quoted(str(error).partition("\n")[0])
        raise IniError(f"this is no ONNX file, or a broken one: {reason}", place) from None


def _decoded(data: bytes, place: Place) -> OnnxGraph:
    model = onnx.ModelProto.FromString(data)
    source = model.graph
    graph = OnnxGraph(place)
    if not source.node:
        raise IniError("this is no ONNX file, or one without a network: it has no nodes", place)
    if len(source.node) > MOST_NODES:
        raise IniError(f"there are {len(source.node)} nodes. Accepted: {MOST_NODES}", place)
    if source.sparse_initializer:
        raise IniError("sparse weights are not supported here", place)
    versions = [o.version for o in model.opset_import if o.domain in STANDARD]
    graph.opset = max(versions, default=1)
    if graph.opset < 1:
        raise IniError(
            f"its operators are those of opset {graph.opset}, which does not exist. Accepted: 1 to "
            f"{NEWEST}",
            place,
        )
    for tensor in source.initializer:
        name = _text(tensor.name)
        graph.constants[name] = _array(tensor, name, place)
    for value in source.input:
        if value.name not in graph.constants:
            graph.inputs[_text(value.name)] = _sizes(value)
    graph.outputs = [_text(value.name) for value in source.output]
    made = {*graph.constants, *graph.inputs}
    for number, node in enumerate(source.node):
        decoded = _node(node, number, place)
        for name in filter(None, decoded.outputs):
            if name in made:
                raise IniError(f"two nodes make {quoted(name)}", place)
            made.add(name)
        if decoded.operator == "Constant":
            graph.constants[decoded.name] = _constant(decoded, place)
        else:
            graph.nodes.append(decoded)
    return graph


def _node(node: onnx.NodeProto, number: int, place: Place) -> OnnxNode:
    operator, domain = _text(node.op_type), _text(node.domain)
    operator = operator if domain in STANDARD else f"{domain}.{operator}"
    if not node.output or not node.output[0]:
        raise IniError(f"node {number} ({quoted(operator)}) has no output", place)
    inputs, outputs = (tuple(map(_text, names)) for names in (node.input, node.output))
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        value = _attribute(attribute, outputs[0], place)
        if value is not None:
            attributes[_text(attribute.name)] = value
    return OnnxNode(operator, inputs, outputs, attributes)


def _attribute(attribute: onnx.AttributeProto, node: str, place: Place) -> Attribute | None:
    kinds = onnx.AttributeProto
    if attribute.type == kinds.INT:
        return int(attribute.i)
    if attribute.type == kinds.FLOAT:
        return shortest(attribute.f)
    if attribute.type == kinds.STRING:
        return bytes(attribute.s).decode("utf-8", "replace")
    if attribute.type == kinds.INTS:
        return [int(i) for i in attribute.ints]
    if attribute.type == kinds.FLOATS:
        return [shortest(f) for f in attribute.floats]
    if attribute.type == kinds.TENSOR:
        return _array(attribute.t, node, place)
    return None  # graphs belong to operators that are refused by their names


def _constant(node: OnnxNode, place: Place) -> Array:
    for key, kind in (("value_float", np.float32), ("value_int", np.int64)):
        for name in (key, f"{key}s"):
            if name in node.attributes:
                return np.asarray(node.attributes[name], kind)
    value = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise IniError(f"the constant {quoted(node.name)} holds no numbers", place)
    return value


def _array(tensor: onnx.TensorProto, name: str, place: Place) -> Array:
    kind = _kind(tensor)
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        files = {e.value for e in tensor.external_data if e.key == "location"}
        raise IniError(
            f"the numbers of {quoted(name)} lie in another file"
            + "".join(f", {quoted(file)}," for file in sorted(files))
            + " which is not opened: save the network as one file, such as by "
            "torch.onnx.export(..., external_data=False)",
            place,
        )
    if kind not in TYPES:
        raise IniError(
            f"{quoted(name)} holds {kind}, which is not supported here. Accepted: "
            f"{', '.join(TYPES)}",
            place,
        )
    if len(tensor.dims) > MOST_DIMENSIONS or any(size < 0 for size in tensor.dims):
        raise IniError(f"{quoted(name)} has sizes {quoted(str(list(tensor.dims)))}", place)
    array: Array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if kind in ("FLOAT16", "BFLOAT16", "DOUBLE") else array


def _kind(tensor: onnx.TensorProto) -> str:
    names: dict[int, str] = {n: name for name, n in onnx.TensorProto.DataType.items()}
    return names.get(tensor.data_type, f"type {tensor.data_type}")


def _sizes(value: onnx.ValueInfoProto) -> list[int | None] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim]


def _text(value: str) -> str:
    """Return a name; protobuf hands out bytes where a text is broken."""
    if not isinstance(value, str):
        raise ValueError(f"the name {value!r} is not a text")
    return value


def shortest(value: float) -> float:
    """Return the number that a float32 was written as: 0.1, not 0.10000000149."""
    return float(str(np.float32(value)))
