"""Between which numbers the values of a tensor lie, by what computes them.

A site needs no levels below 0 where no value can be there. That follows from the function *and its
arguments*: ``clamp(x, 0, 6)`` has none, ``clamp(x, -1, 1)`` has.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from qatlab.quant.ops import CLAMPS
from qatlab.quant.quantizer import is_number


class Bounds(NamedTuple):
    """Ends of an interval; infinite where nothing is known."""

    low: float
    high: float


ANYTHING = Bounds(-math.inf, math.inf)
FROM_0 = Bounds(0.0, math.inf)
UNIT = Bounds(0.0, 1.0)


def bounds_of(
    node: fx.Node,
    kind: str | None,
    modules: Mapping[str, nn.Module],
    known: Mapping[fx.Node, Bounds],
    others: Mapping[fx.Node, Any],
) -> Bounds:
    """Return between which numbers the values that a node makes lie.

    Args:
        node: of the graph.
        kind: what it does, see :func:`~qatlab.quant.ops.kind_of`.
        modules: of the network.
        known: bounds of the nodes in front of it.
        others: what these are if they are no tensors.
    """
    if kind in UNCHANGED:  # an index says nothing
        read = node.all_input_nodes[: 1 if node.target is operator.getitem else None]
        inputs = [known[n] for n in read if n in known]
        return hull(inputs) if inputs else ANYTHING
    args: Any = fx.map_arg(node.args, lambda n: others.get(n, known.get(n)))
    kwargs: Any = dict(fx.map_arg(node.kwargs, lambda n: others.get(n, known.get(n))))
    if kind == "mul" and len(args) == 2 and node.args[0] is node.args[1]:
        kind, args = "square", args[:1]
    function = FUNCTIONS.get(kind or "")
    if function is None:
        return ANYTHING
    if (end := CLAMPS.get(node.target)) is not None:
        args, kwargs = args[:1], {end: [*args[1:], *kwargs.values()][0]}
    if args and is_number(args[0]):  # 2 ** x
        args = (_as_bounds(args[0]), *args[1:])
    kwargs.pop("inplace", None)
    if node.op == "call_module":
        module = modules[str(node.target)]
        names = list(inspect.signature(function).parameters)[1:]
        kwargs |= {name: getattr(module, name) for name in names if hasattr(module, name)}
    try:
        return Bounds(*function(*args, **kwargs))
    except TypeError:  # arguments of another form of the function: nothing is known
        return ANYTHING


def bounds_of_constant(value: Tensor, changes: bool) -> Bounds:
    """Return the ends of a tensor of the network itself, which a checkpoint may change."""
    if changes or not value.numel():
        return ANYTHING
    return Bounds(float(value.min()), float(value.max()))


def hull(parts: Sequence[Bounds]) -> Bounds:
    """Return the smallest interval that holds all of the others."""
    return Bounds(min(part.low for part in parts), max(part.high for part in parts))


def _as_bounds(value: Any) -> Bounds:
    return value if isinstance(value, Bounds) else Bounds(float(value), float(value))


def _sum(x: Any, y: Any, alpha: float = 1) -> Bounds:
    (low, high), scaled = _as_bounds(x), _product(y, alpha)
    return Bounds(low + scaled.low, high + scaled.high)


def _difference(x: Any, y: Any, alpha: float = 1) -> Bounds:
    return _sum(x, y, -alpha)


def _product(x: Any, y: Any) -> Bounds:
    ends = [0.0 if 0 in (a, b) else a * b for a in _as_bounds(x) for b in _as_bounds(y)]
    return Bounds(min(ends), max(ends))


def _quotient(x: Any, y: Any, rounding_mode: str | None = None) -> Bounds:
    low, high = _as_bounds(y)
    if low <= 0 <= high:
        return FROM_0 if min(_as_bounds(x).low, low) >= 0 else ANYTHING
    return _product(x, Bounds(1 / high, 1 / low))


def _clipped(x: Bounds, low: Any, high: Any) -> Bounds:
    below = _as_bounds(-math.inf if low is None else low)
    above = _as_bounds(math.inf if high is None else high)
    return _smallest(_largest(x, below), above)


def _threshold(x: Bounds, threshold: float, value: float, *_: Any) -> Bounds:
    return Bounds(min(value, max(x.low, threshold)), max(value, x.high))


def _power(x: Bounds, exponent: Any) -> Bounds:
    even = not isinstance(exponent, Bounds) and exponent % 2 == 0
    return FROM_0 if even or x.low >= 0 else ANYTHING


def _leaky(x: Bounds, negative_slope: float = 0.01, *_: Any) -> Bounds:
    return hull([x, _product(x, negative_slope)])


def _largest(x: Bounds, y: Any, *_: Any) -> Bounds:
    if not isinstance(y, Bounds):  # x.max(1) is the largest along a dimension
        raise TypeError("no second tensor")
    return Bounds(max(x.low, y.low), max(x.high, y.high))


def _smallest(x: Bounds, y: Any, *_: Any) -> Bounds:
    x, y = (Bounds(-b.high, -b.low) if isinstance(b, Bounds) else b for b in (x, y))
    low, high = _largest(x, y)
    return Bounds(-high, -low)


def _summed(x: Bounds, *_: Any, **__: Any) -> Bounds:
    return Bounds(0.0 if x.low >= 0 else -math.inf, 0.0 if x.high <= 0 else math.inf)


def _padded(x: Bounds, pad: Any = None, mode: str = "constant", value: Any = None) -> Bounds:
    return hull([x, _as_bounds(value or 0.0)]) if mode == "constant" else x


def _as_its_sign(x: Bounds, *_: Any, **__: Any) -> Bounds:
    """Return what is known of a function that keeps the sign of all numbers."""
    return FROM_0 if x.low >= 0 else ANYTHING


# These hand values on, or take averages of them.
UNCHANGED = (
    *("same", "dropout", "view", "interpolate", "max_pool2d", "adaptive_max_pool2d", "amax"),
    *("adaptive_avg_pool2d", "mean"),
)
FUNCTIONS: dict[str, Callable[..., tuple[float, float]]] = {
    "relu": lambda x, *_: _clipped(x, 0, None),
    "relu6": lambda x, *_: _clipped(x, 0, 6),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0, *_: _clipped(x, min_val, max_val),
    "clamp": lambda x, min=None, max=None: _clipped(x, min, max),
    "threshold": _threshold,
    "leaky_relu": _leaky,
    "sigmoid": lambda x: UNIT,
    "hardsigmoid": lambda x, *_: UNIT,
    "softmax": lambda x, *_, **__: UNIT,
    "log_softmax": lambda x, *_, **__: (-math.inf, 0.0),
    "logsigmoid": lambda x: (-math.inf, 0.0),
    "softplus": lambda x, *_, **__: FROM_0,
    "tanh": lambda x: (-1.0, 1.0),
    "softsign": lambda x: (-1.0, 1.0),
    **dict.fromkeys(("elu", "selu", "celu", "silu", "gelu", "mish", "hardswish"), _as_its_sign),
    "abs": lambda x: (max(x.low, -x.high, 0.0), max(-x.low, x.high)),
    "zeros": lambda *_, **__: (0.0, 0.0),
    **dict.fromkeys(("square", "exp", "sqrt", "not_negative"), lambda *_, **__: FROM_0),
    "pow": _power,
    "maximum": _largest,
    "minimum": _smallest,
    "avg_pool2d": lambda x, *_, **__: hull([x, Bounds(0.0, 0.0)]),  # beyond the border are zeros
    "sum": _summed,
    "pad": _padded,
    "add": _sum,
    "sub": _difference,
    "rsub": lambda x, y, alpha=1: _sum(y, x, -alpha),
    "mul": _product,
    "div": _quotient,
    "neg": lambda x: (-x.high, -x.low),
}
