"""ONNX of networks of which parts stay float: torch's exporter writes all but the quantizers.

A copy of the network is exported in which each quantizer is a node that stands for it. The nodes of
torch are then taken over as they are, and the others become what the writer of the format makes of
weights and sites. What an attention or a layer norm computes between two sites is float32, as in
training.
"""

from __future__ import annotations

import copy
import logging
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from qatlab.deploy.integer import operations as ops
from qatlab.deploy.integer.folding import folded, grid_codes
from qatlab.deploy.integer.network import IntegerNetwork
from qatlab.deploy.integer.operations import AS_GIVEN, Codes, Integers, Reals
from qatlab.deploy.integer.weights import integer_weight
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.readers import Reader, check_operators
from qatlab.deploy.onnx.stored import opset_of_site, opset_of_weights
from qatlab.errors import ConfigError, wrong
from qatlab.quant.layers import QuantConv2d, QuantLinear, quantized_weight
from qatlab.quant.learned import ActivationQuantizer
from qatlab.quant.sites import paths_of

LOWEST_OPSET = 18  # that torch writes
ADAPTIVE = torch.ops.aten.adaptive_max_pool2d.default
DOMAIN = "qatlab"  # of the nodes that stand for quantizers
# Readers of a site that onnxruntime joins with its DequantizeLinear, or may once it has left out
# what is in between: products, and what moves values.
JOINED = {
    *("Concat", "Expand", "Flatten", "Gather", "Gemm", "Identity", "MatMul", "MaxPool", "Pad"),
    *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
RANDOM = {
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"),
    "RandomUniformLike",
}
BIASED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}  # where their bias is


@dataclass(frozen=True)
class Exported:
    """A network as torch has exported it.

    Attributes:
        file: with a node of :data:`DOMAIN` for each quantizer.
        weights: by the path of a layer, the codes of its weights and their step.
        sites: by its path, the codes of a site.
        shape: of an image.
        opset: of the file.
        batch: the size of a batch, or ``N`` for any.
        of_batch: path of a norm that computes with the statistics of a batch, "" without one.
    """

    file: onnx.ModelProto
    weights: Mapping[str, tuple[Integers, Reals]]
    sites: Mapping[str, Codes]
    shape: tuple[int, int, int]
    opset: int
    batch: int | str
    of_batch: str = ""


class Marked:
    """A copy of a network in evaluation, in which something stands for each quantizer.

    Args:
        model: what :func:`qatlab.quant.quantize` returned, with trained values, on the CPU.

    Raises:
        ConfigError: for a layer or a site that has no levels.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, fx.GraphModule)  # as all that are quantized
        self.model, self.copied = model, copy.deepcopy(model).eval()
        self.weights: dict[str, tuple[Integers, Reals]] = {}
        self.sites: dict[str, Codes] = {}
        self.of_batch = ""
        modules = list(self.copied.named_modules())
        absorbed: dict[Any, str] = {
            module.norm: path for path, module in modules if isinstance(module, ActivationQuantizer)
        }
        for path, module in modules:
            if isinstance(module, (QuantConv2d, QuantLinear)):
                self._mark_weights(path, module)
            elif isinstance(module, _BatchNorm) and module.running_mean is None:
                self.of_batch = path
            elif isinstance(module, _BatchNorm):
                folded(absorbed.get(module, path), module)  # refuses what are no numbers
            elif isinstance(module, ActivationQuantizer):
                self.sites[path] = grid_codes(path, module)
                parent, _, child = path.rpartition(".")
                setattr(self.copied.get_submodule(parent), child, _Site(module, path))
        self.copied.float()
        for name, value in self.copied.named_parameters():  # a mask of attention may be infinite
            if not value.isfinite().all():
                raise ConfigError(f"{name} holds values that are not finite.")

    def _mark_weights(self, path: str, layer: QuantConv2d | QuantLinear) -> None:
        mark: Any = _Mark(path)
        if layer.weight_quantizer.on_grid:
            codes, steps = integer_weight(layer)
            self.weights[path] = codes, np.where(steps == 0, 1.0, steps)  # of weights that are 0
        else:
            layer.weight, mark = nn.Parameter(quantized_weight(layer).clone()), nn.Identity()
        layer.weight_quantizer = mark
        layer.weight_mask = layer.held = None

    def lowest_opset(self, of_floats: bool = False) -> int:
        """Return the lowest opset that stores weights at their width.

        Args:
            of_floats: weights and sites are no whole numbers in the file, as in QONNX.
        """
        if of_floats:
            return LOWEST_OPSET
        weights = [opset_of_weights(codes, path) for path, (codes, _) in self.weights.items()]
        return max([LOWEST_OPSET, *weights, *map(opset_of_site, self.sites.values())])

    @torch.no_grad()
    def export(self, example_input: Tensor, opset: int) -> Exported:
        """Let torch export the network.

        Args:
            example_input: ``(1, C, H, W)``.
            opset: of the file.

        Raises:
            ConfigError: for an opset that torch does not write, and what it cannot export, by the
                layer and the operator.
        """
        if not find_spec("onnxscript"):
            raise ConfigError(
                "parts of this network stay float, which needs the package onnxscript: "
                "pip install 'qatlab[onnx]'."
            )
        if opset < LOWEST_OPSET:
            raise wrong("--opset", opset, f"{LOWEST_OPSET} or higher, as parts stay float")
        image = example_input.float()
        batch: int | str = "N"
        try:
            file = _by_torch(self.copied, torch.cat([image, image]), opset, dynamic=True)
        except Exception:  # whatever torch's exporter raises, such as of a fixed size of the batch
            batch = 1
            try:
                file = _by_torch(self.copied, image, opset, dynamic=False)
            except Exception as error:
                raise _refused(self.model, error) from error
        _check(file)
        channels, height, width = image.shape[1:]
        shape = (channels, height, width)
        return Exported(file, self.weights, self.sites, shape, opset, batch, self.of_batch)


def _check(file: onnx.ModelProto) -> None:
    """Raise a ConfigError for a network that no file answers like."""
    for node in file.graph.node:
        if node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2):
            raise ConfigError(
                f"the network computes with random numbers in evaluation ({node.op_type}), so no "
                "file answers what it does; give F.dropout training=self.training, for example."
            )


def _by_torch(model: nn.Module, images: Tensor, opset: int, dynamic: bool) -> onnx.ModelProto:
    sizes = ({0: torch.export.Dim("N")},) if dynamic else None
    with _silent():
        # By itself first: torch.onnx would write a fixed batch where it finds no other.
        with _Exactly():
            program = torch.export.export(model, (images,), dynamic_shapes=sizes)
        if any(node.target is ADAPTIVE for node in program.graph.nodes):
            program = program.run_decompositions({ADAPTIVE: _largest})
        made = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    assert made is not None  # as it is with dynamo=True
    file: onnx.ModelProto = made.model_proto
    return file


class _Exactly(TorchFunctionMode):
    """Writes what torch's exporter would write otherwise than it computes in other words.

    It forgets the ``divisor_override`` of an average, and a pool with ``ceil_mode`` of ONNX has
    windows that begin behind the map, which torch's has not.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        function = EXACTLY.get(func, func)
        return function(*args, **(kwargs or {}))


def _average(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Compute ``F.avg_pool2d``, of which arguments see there."""
    if divisor_override is None and not ceil_mode:
        return F.avg_pool2d(input, kernel_size, stride, padding, False, count_include_pad)
    kernel, padded = _pair(kernel_size), _pair(padding)
    steps = kernel if stride in (None, []) else _pair(stride)
    sides = _sides(input, kernel, steps, padded, ceil_mode)
    means = F.avg_pool2d(F.pad(input, sides), kernel, steps)
    if divisor_override is not None:
        return means * (kernel[0] * kernel[1] / divisor_override)
    # The share of each window that counts.
    one = input.new_ones(1, 1, *input.shape[-2:])
    if count_include_pad:
        one = F.pad(one, [padded[1], padded[1], padded[0], padded[0]], value=1.0)
        sides = [behind - before for before, behind in zip(sides[::2], sides[1::2], strict=True)]
        sides = [side for more in sides for side in (0, more)]
    return means / F.avg_pool2d(F.pad(one, sides), kernel, steps)


def _maximum(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Compute ``F.max_pool2d``, of which arguments see there."""
    if return_indices or not ceil_mode:
        sizes: Any = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return F.max_pool2d(input, *sizes)
    kernel, apart = _pair(kernel_size), _pair(dilation)
    steps = kernel if stride in (None, []) else _pair(stride)
    taps = [(size - 1) * step + 1 for size, step in zip(kernel, apart, strict=True)]
    sides = _sides(input, taps, steps, _pair(padding), ceil_mode)
    return torch.max_pool2d(F.pad(input, sides, value=-math.inf), kernel, steps, 0, apart)


def _sides(
    input: Tensor,
    taps: Sequence[int],
    steps: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
) -> list[int]:
    """Return how far windows reach beyond a map: left, right, above, below.

    Args:
        input: the map, ``(N, C, H, W)``.
        taps: height and width of a window.
        steps: from a window to the next, as all that follow for height and width.
        padding: on each side.
        ceil_mode: whether a last window may reach further.
    """
    sides: list[int] = []
    for size, reach, step, zeros in zip(input.shape[-2:], taps, steps, padding, strict=True):
        left = (size + 2 * zeros - reach) % step
        # A last window that begins in the zeros behind the map is none.
        more = ceil_mode and left > 0 and size + zeros > size + 2 * zeros - reach - left + step
        sides = [zeros, zeros + (step - left if more else 0), *sides]
    return sides


EXACTLY: dict[Any, Any] = {
    F.avg_pool2d: _average,
    F.max_pool2d: _maximum,
    torch.max_pool2d: _maximum,
}


def _largest(x: Tensor, output_size: Sequence[int]) -> Any:
    """Compute ``F.adaptive_max_pool2d`` where windows tile the map; torch's exporter lacks it."""
    (height, width), (rows, columns) = x.shape[-2:], output_size
    if height % rows or width % columns:
        return NotImplemented
    kernel = [height // rows, width // columns]
    return torch.ops.aten.max_pool2d_with_indices(x, kernel, kernel)


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, (list, tuple)) else (value, value)


@contextmanager
def _silent() -> Any:
    """Keep back what the exporter logs and warns of: its own ways."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _refused(model: fx.GraphModule, error: Exception) -> ConfigError:
    """Return what torch's exporter has stopped at, in a sentence."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    messages = "\n".join(str(one) for one in causes)
    paths = {node.name: path for node, path in paths_of(model.graph).items()}
    at = re.search(r"(?:While executing|translating node) %(\w+)", messages)
    operator = re.search(r"torch\.ops\.aten\.(\w+)", messages)
    where = paths.get(at[1], at[1]) if at else type(model).__name__
    what = f" ({operator[1]})" if operator else ""
    reason = (str(causes[-1]).strip().splitlines() or [type(causes[-1]).__name__])[0]
    return ConfigError(f"{where}{what} cannot be exported by torch.onnx: {reason}")


class _Mark(nn.Module):
    """Becomes a node that stands for a quantizer."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::Quantizer", (x,), {"path": self.path}, dtype=x.dtype, shape=x.shape
        )
        return result


class _Site(nn.Module):
    """What a site computes in front of its quantizer, and a node that stands for this."""

    def __init__(self, quantizer: ActivationQuantizer, path: str) -> None:
        super().__init__()
        # In a tuple: it stays registered where it is, and the site may be a module inside of it.
        self._norm = () if quantizer.norm is None else (quantizer.norm,)
        # Not always the activation: in the place of a ReLU6 the grid may end above 6.
        self.activation = nn.Identity() if quantizer.clips else quantizer.activation
        self.mark = _Mark(path)

    def forward(self, x: Tensor) -> Tensor:
        for norm in self._norm:
            x = norm(x)
        result: Tensor = self.mark(self.activation(x))
        return result


def write(
    exported: Exported,
    kind: type[QdqWriter],
    facts: Mapping[str, str],
    reader: Reader | None = None,
) -> onnx.ModelProto:
    """Return the file.

    Args:
        exported: the network.
        kind: writes weights and sites in the format.
        facts: become its metadata.
        reader: of the file; None for the first that takes the format.

    Raises:
        ConfigError: for what its opset or its reader has not, naming layer or site.
    """
    return _Writer(exported, kind, reader).write(facts)


class _Writer:
    """Takes over the nodes of torch, and writes what others stand for.

    In a file of QuantizeLinear and DequantizeLinear, onnxruntime would change numbers:

    - It computes a product of a tensor and dequantized weights with the tensor in 8 bits, or with
      sums of 16 bits, which overflow on some processors. So the weights of a product are multiplied
      by their step apart from the DequantizeLinear, and the codes of a site that is a factor by a
      Cast and a Mul.
    - It moves a DequantizeLinear behind what moves values, and loses its type: likewise.
    - It rounds biases to whole numbers: they are an Add of their own.
    """

    def __init__(self, exported: Exported, kind: type[QdqWriter], reader: Reader | None) -> None:
        self.exported, graph = exported, exported.file.graph
        image = ops.Input("image", (), AS_GIVEN, exported.shape)
        one, zero = np.ones(()), np.zeros(())
        self.sites = {
            name: ops.Rescale(name, ("image",), (one,), zero, zero, codes)
            for name, codes in exported.sites.items()
        }
        network, opset = IntegerNetwork((image, *self.sites.values())), exported.opset
        self.writer = kind(network, opset) if reader is None else kind(network, opset, reader)
        # Others are not for onnxruntime.
        self.in_two_steps = not (kind.domain or self.writer.conventions.fused)
        self.graph = self.writer.graph
        if self.graph.batch == "N":
            self.graph.batch = exported.batch
        if self.graph.batch == 1 and exported.of_batch:
            raise ConfigError(
                f"{exported.of_batch} computes with the statistics of its batch, and this file has "
                "batches of one image; give it running statistics."
            )
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.names = {graph.input[0].name: "image", "": ""}  # here, by those that torch gave
        self.readers: dict[str, list[str]] = defaultdict(list)  # operators that read a tensor
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node.op_type)

    def write(self, facts: Mapping[str, str]) -> onnx.ModelProto:
        graph = self.exported.file.graph
        image = self.graph.input("image", TensorProto.FLOAT, self.exported.shape)
        transposed = self._transposed_weights()
        for node in graph.node:
            if node.domain == DOMAIN:
                self._quantizer(node, transposed)
            elif node.output[0] not in self.names:
                self._taken_over(node)
        shapes = {
            self.names[output.name]: [dim.dim_value for dim in output.type.tensor_type.shape.dim]
            for output in graph.output
        }
        (answer, sizes), *others = shapes.items()
        file = self.graph.model(image, answer, TensorProto.FLOAT, sizes[1:], facts)
        file.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.graph.batch, *sizes[1:]])
            for name, sizes in others
        )
        onnx.checker.check_model(file)
        check_operators(self.writer.reader, "network", (node.op_type for node in file.graph.node))
        return self.writer.completed(file)

    def _transposed_weights(self) -> dict[str, str]:
        """Return, by the output of a node for weights, that of the Transpose that reads it."""
        if not self.in_two_steps:
            return {}
        by_input = {
            node.input[0]: node.output[0]
            for node in self.exported.file.graph.node
            if node.op_type == "Transpose"
        }
        return {name: by_input[name] for name in by_input if self.readers[name] == ["Transpose"]}

    def _quantizer(self, node: onnx.NodeProto, transposed: Mapping[str, str]) -> None:
        (attribute,) = (one for one in node.attribute if one.name == "path")
        path, output = attribute.s.decode(), node.output[0]
        if path in self.sites:
            self.names[output] = self._site(path, self.names[node.input[0]], output)
            return
        codes, steps = self.exported.weights[path]
        scale = np.asarray(steps, np.float32)
        if self.in_two_steps and codes.ndim == 2:
            scale = scale.reshape(-1, 1)
            if output in transposed:
                output = transposed[output]
                codes, scale = codes.T, scale.T
        self.names[output] = self.writer.weights(codes, scale, path)

    def _site(self, name: str, x: str, output: str) -> str:
        """Write a site; return the real numbers that it makes."""
        codes, writer = self.exported.sites[name], self.writer
        if codes.offset:
            x = self.graph.node("Sub", [x, self.graph.constant(np.float32(codes.offset))])
        writer.site(self.sites[name], x)
        two = self.in_two_steps and name in writer.stored
        if not two or codes.offset or JOINED.isdisjoint(self.readers[output]):
            return writer.real(name)
        stored = writer.stored[name]
        whole = self.graph.node("Cast", [stored.codes], to=TensorProto.FLOAT)
        return self.graph.node("Mul", [whole, stored.scale], name)

    def _taken_over(self, node: onnx.NodeProto) -> None:
        """Write a node of torch as it is, but for a bias."""
        inputs = [self._name(name) for name in node.input]
        at, bias = BIASED.get(node.op_type, len(inputs)), ""
        if self.in_two_steps and len(inputs) > at:
            bias = self._bias(node)
            inputs = inputs[:at]
        outputs = self.graph.take(node, inputs)
        if bias:
            outputs = [self.graph.node("Add", [bias, outputs[0]])]  # as in QdqWriter
        self.names.update(zip(node.output, outputs, strict=True))

    def _bias(self, node: onnx.NodeProto) -> str:
        """Return a bias in the shape in which it is added to what the node makes."""
        name = node.input[BIASED[node.op_type]]
        if node.op_type == "Gemm":
            return self._name(name)
        places = next(len(one.ints) for one in node.attribute if one.name == "strides")
        if name in self.constants:
            values = numpy_helper.to_array(self.constants[name])
            return self.graph.constant(values.reshape(1, -1, *(1,) * places))
        shape = self.graph.constant(np.array([1, -1, *(1,) * places]))
        return self.graph.node("Reshape", [self._name(name), shape])

    def _name(self, name: str) -> str:
        """Return the name here of a tensor of torch."""
        if name not in self.names:
            self.names[name] = self.graph.constant(numpy_helper.to_array(self.constants[name]))
        return self.names[name]
