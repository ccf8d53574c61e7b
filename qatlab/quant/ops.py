"""What operations are called, however a network writes them: the one table of their names.

``nn.ReLU()``, ``F.relu``, ``torch.relu`` and ``x.relu()`` are all ``relu`` here. What an operation
means, to sites or to integers, is a table from these names to functions, elsewhere.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.quant.memory import add, add_inplace
from qatlab.quant.quantizer import is_number


class Clamp(nn.Module):
    """``torch.clamp`` with numbers, as a module.

    Args:
        min: smallest value, None for no end.
        max: largest value, likewise.
    """

    def __init__(self, min: float | None = None, max: float | None = None) -> None:
        super().__init__()
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, clipped."""
        return x.clamp(self.min, self.max)

    def extra_repr(self) -> str:
        """Name the ends when the model is printed."""
        return f"min={self.min}, max={self.max}"


# Activation functions: the class whose arguments those of the functions are, then the others.
ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu"),
    "relu6": (nn.ReLU6, F.relu6),
    "hardtanh": (nn.Hardtanh, F.hardtanh),
    "clamp": (Clamp, torch.clamp, torch.clip, "clamp", "clip"),
    "threshold": (nn.Threshold, F.threshold, torch.threshold),
    "leaky_relu": (nn.LeakyReLU, F.leaky_relu),
    "prelu": (nn.PReLU, F.prelu, torch.prelu, "prelu"),
    "sigmoid": (nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"),
    "hardsigmoid": (nn.Hardsigmoid, F.hardsigmoid),
    "softplus": (nn.Softplus, F.softplus),
    "elu": (nn.ELU, F.elu),
    "selu": (nn.SELU, F.selu, torch.selu),
    "celu": (nn.CELU, F.celu, torch.celu),
    "silu": (nn.SiLU, F.silu),
    "gelu": (nn.GELU, F.gelu),
    "mish": (nn.Mish, F.mish),
    "hardswish": (nn.Hardswish, F.hardswish),
    "tanh": (nn.Tanh, F.tanh, torch.tanh, "tanh"),
    "softsign": (nn.Softsign, F.softsign),
    "logsigmoid": (nn.LogSigmoid, F.logsigmoid),
}
# The same for what depends on two of them: x.clamp_min(0) is a clamp with another argument.
CLAMPS: dict[Any, str] = {
    torch.clamp_min: "min",
    "clamp_min": "min",
    torch.clamp_max: "max",
    "clamp_max": "max",
}
OTHERS: dict[str, tuple[Any, ...]] = {
    "max_pool2d": (nn.MaxPool2d, F.max_pool2d, torch.max_pool2d),
    "avg_pool2d": (nn.AvgPool2d, F.avg_pool2d),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d),
    "mean": (torch.mean, "mean"),
    "sum": (torch.sum, "sum"),
    "amax": (torch.amax, "amax"),
    "add": (operator.add, operator.iadd, torch.add, "add", add, add_inplace),
    "sub": (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "subtract"),
    "rsub": (torch.rsub, "rsub"),
    "mul": (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "multiply"),
    "div": (
        *(operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide),
        *("div", "divide", "true_divide"),
    ),
    "neg": (operator.neg, torch.neg, torch.negative, "neg", "negative"),
    "abs": (operator.abs, abs, torch.abs, "abs", "absolute"),
    "square": (torch.square, "square"),
    "pow": (operator.pow, operator.ipow, torch.pow, "pow"),
    "exp": (torch.exp, "exp"),
    "sqrt": (torch.sqrt, "sqrt"),
    "maximum": (torch.maximum, "maximum", torch.max, "max", torch.fmax),
    "minimum": (torch.minimum, "minimum", torch.min, "min", torch.fmin),
    "not_negative": (torch.var, "var", torch.std, "std", torch.norm, "norm", torch.linalg.norm),
    "zeros": (torch.zeros_like, "new_zeros"),
    "softmax": (nn.Softmax, nn.Softmax2d, F.softmax, torch.softmax, "softmax"),
    "log_softmax": (nn.LogSoftmax, F.log_softmax, torch.log_softmax, "log_softmax"),
    "pad": (
        *(F.pad, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
        nn.CircularPad2d,
    ),
    # What does nothing to values in evaluation.
    "same": (
        *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
        *("contiguous", "clone", "detach", torch.clone, torch.detach),
        *(operator.pos, torch.positive),
    ),
    "dropout": (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout),
    # What puts values into another order, or leaves some of them out.
    "view": (
        *(nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle),
        *(nn.UpsamplingNearest2d, F.channel_shuffle, F.pixel_shuffle, F.pixel_unshuffle),
        *(torch.flatten, torch.unflatten, torch.reshape, torch.permute, torch.transpose),
        *(torch.squeeze, torch.unsqueeze, torch.swapaxes, torch.swapdims, torch.movedim),
        *(torch.moveaxis, torch.roll, torch.flip, torch.narrow, torch.select, torch.cat),
        *(torch.concat, torch.concatenate, torch.stack, torch.chunk, torch.split),
        *(torch.tensor_split, torch.unbind, torch.t, torch.adjoint, torch.ravel, torch.tile),
        *(operator.getitem, getattr),
        *("flatten", "unflatten", "reshape", "view", "reshape_as", "view_as", "permute"),
        *("transpose", "squeeze", "unsqueeze", "swapaxes", "swapdims", "movedim", "moveaxis"),
        *("roll", "flip", "narrow", "select", "chunk", "split", "tensor_split", "unbind", "t"),
        *("ravel", "expand", "expand_as", "repeat", "tile"),
    ),
    # Upsampling hands on values or makes new ones, by its mode.
    "interpolate": (F.interpolate, nn.Upsample),
}
KIND_OF: dict[Any, str] = {
    target: kind for kind, targets in (ACTIVATIONS | OTHERS).items() for target in targets
} | dict.fromkeys(CLAMPS, "clamp")
# Classes of libraries that are not imported here. They leave out branches, or blocks of values, of
# some images in training, as dropout does single values.
DROPS_BRANCHES = ("StochasticDepth", "DropPath", "DropBlock2d")
WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)


def target_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Any:
    """Return what a node calls: a module's class, a function or a method's name."""
    return type(modules[str(node.target)]) if node.op == "call_module" else node.target


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """Return the name of a node's operation; None for what is not in the table."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    target = target_of(node, modules)
    if node.op == "call_module" and target.__name__ in DROPS_BRANCHES:
        return "same"
    return KIND_OF.get(target)


def written(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Return the name of what a node calls, for messages and rules."""
    target = target_of(node, modules)
    if target is add_inplace:  # what conversion has made of a sum
        return "add"
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name.lstrip("_")


def activation_module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """Return the module that computes what an activation function's node does.

    None where the node has to stay: its parameters keep their names, or its arguments are no
    numbers.
    """
    if node.op == "call_module":
        module = modules[str(node.target)]
        return None if list(module.parameters()) else module
    if (end := CLAMPS.get(node.target)) is not None:
        number: Any = [*node.args[1:], *node.kwargs.values()][-1]
        return Clamp(**{end: number}) if is_number(number) else None
    kind = ACTIVATIONS[KIND_OF[node.target]][0]
    given = [*node.args[1:], *node.kwargs.values()]
    if kind is nn.PReLU or any(isinstance(x, (fx.Node, Tensor)) for x in given):
        return None
    kwargs = {key: value for key, value in node.kwargs.items() if key not in ("input", "inplace")}
    made: nn.Module = kind(*node.args[1:], **kwargs)
    if hasattr(made, "inplace"):
        made.inplace = False  # type: ignore[assignment]
    return made


def clip_range(activation: nn.Module) -> tuple[float, float] | None:
    """Return the ends to which an activation function clips its input; None if it does more."""
    if isinstance(activation, nn.Identity):
        return -math.inf, math.inf
    if isinstance(activation, nn.Hardtanh):  # ReLU6 is one
        return float(activation.min_val), float(activation.max_val)
    if isinstance(activation, nn.ReLU):
        return 0.0, math.inf
    if isinstance(activation, Clamp):
        low = -math.inf if activation.min is None else float(activation.min)
        return low, math.inf if activation.max is None else float(activation.max)
    if isinstance(activation, nn.Threshold) and activation.value == activation.threshold:
        return float(activation.value), math.inf
    return None


def is_table(activation: nn.Module) -> bool:
    """Tell whether whole numbers have an activation function as a table of codes only.

    What clips its input, or bends it at 0, is one multiplication; so is Hardsigmoid, which is
    ``clip(x / 6 + 1 / 2, 0, 1)``.
    """
    bends = isinstance(activation, (nn.LeakyReLU, nn.PReLU, nn.Hardsigmoid))
    return not bends and clip_range(activation) is None


def settings_of(activation: nn.Module) -> dict[str, Any]:
    """Return the arguments that an activation function was made with, but for ``inplace``."""
    own = vars(activation).items()
    return {k: v for k, v in own if k[0] != "_" and k not in ("training", "inplace")}


class Affine(NamedTuple):
    """What computes ``factor * x + shift`` of one tensor.

    Attributes:
        x: the node of the tensor.
        factor: a number, or a tensor that depends on no image.
        shift: likewise.
    """

    x: fx.Node
    factor: float | Tensor
    shift: float | Tensor


def affine(kind: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Affine | None:
    """Return what a sum or a product with numbers computes; None for what is of another kind.

    Args:
        kind: see :func:`kind_of`.
        args: as they are written; a node only where it is a tensor made of the image.
        kwargs: likewise.
    """
    if kind not in AFFINE:
        return None
    try:
        made = AFFINE[kind](*args, **kwargs)
    except TypeError:  # two tensors, or arguments that such a function has not
        return None
    return made if made is None or isinstance(made.x, fx.Node) else None


def _sum(input: Any, other: Any, *, alpha: Any = 1) -> Affine:
    if isinstance(input, fx.Node):
        return Affine(input, 1.0, _constant(other) * alpha)
    return Affine(other, alpha, _constant(input))


def _difference(input: Any, other: Any, *, alpha: Any = 1) -> Affine:
    if isinstance(input, fx.Node):
        return Affine(input, 1.0, -_constant(other) * alpha)
    return Affine(other, -alpha, _constant(input))


def _product(input: Any, other: Any) -> Affine:
    if isinstance(input, fx.Node):
        return Affine(input, _constant(other), 0.0)
    return Affine(other, _constant(input), 0.0)


def _quotient(input: Any, other: Any, *, rounding_mode: Any = None) -> Affine | None:
    number = _constant(other)
    if rounding_mode is not None or (is_number(number) and number == 0):
        return None
    return Affine(input, 1 / number, 0.0)


def _constant(value: Any) -> Any:
    if isinstance(value, Tensor) or is_number(value):
        return value
    raise TypeError(f"{value} is not a number")


AFFINE: dict[str, Callable[..., Affine | None]] = {
    "add": _sum,
    "sub": _difference,
    "rsub": lambda input, other, *, alpha=1: _difference(other, input, alpha=alpha),
    "mul": _product,
    "div": _quotient,
    "neg": lambda input: Affine(input, -1.0, 0.0),
}
