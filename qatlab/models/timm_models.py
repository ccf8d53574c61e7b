"""Convolutional networks of timm by their names, taken apart so that they can be quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError, did_you_mean, wrong
from qatlab.quant.tracing import InPlaceTracer

RESERVED = ("pretrained", "num_classes", "in_chans", "exportable", "scriptable", "no_jit")
# Older versions of timm unpickle such files; init_weights= reads them without running anything.
FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
# They leave out parts of what they get in training, and look the same from outside in evaluation.
LEAVES = ("DropPath", "DropBlock2d")
# Functions whose second argument are weights.
WEIGHTED = (torch.conv2d, F.conv2d, torch.conv1d, torch.conv3d, F.linear)


def timm_model(
    name: str,
    num_classes: int,
    in_channels: int,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network of timm whose norms, activations and paddings are modules of their own.

    Its parameters keep timm's names. With pretrained weights, timm adapts the first layer to the
    number of channels, and a last layer for another number of classes is a new one. Without them,
    norms at the end of a residual branch start at 1, not at 0.

    Args:
        name: its name in timm, such as ``mobilenetv3_small_100``.
        num_classes: outputs.
        in_channels: channels of the images.
        weights: pretrained weights of timm: ``DEFAULT`` or their tag, such as ``a1_in1k``; None
            starts from random ones.
        options: further arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        ConfigError: without timm, for a name that it has not, weights that cannot be fetched, or a
            network that cannot be taken apart.
    """
    timm = _timm()
    if "." in name or not timm.is_model(name):
        accepted = timm.list_models()
        raise ConfigError(
            f"model.name={name} is unknown.{did_you_mean(name, accepted)} Accepted: the networks "
            f"of timm, such as {', '.join(accepted[:3])}; a tag goes into model.weights."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    accepted = [*(["DEFAULT"] if tags else []), *tags]
    if weights is not None and weights not in accepted:
        raise wrong("model.weights", weights, [*accepted, "null"], f"These are of {name}.")
    for key in options or {}:
        if key in RESERVED:
            raise ConfigError(f"model.options.{key} is set by qatlab itself; leave it out.")
        if key in FILES:
            raise ConfigError(
                f"model.options.{key} is not accepted; give a file of weights with init_weights=."
            )
    full = name if weights in (None, "DEFAULT") else f"{name}.{weights}"
    try:
        model: nn.Module = timm.create_model(
            full,
            pretrained=weights is not None,
            num_classes=num_classes,
            in_chans=in_channels,
            **(options or {}),
        )
    except OSError as error:
        tag = timm.get_pretrained_cfg(full).tag
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"model.weights={weights}: the weights timm/{name}.{tag} cannot be downloaded "
            f"({reason}); take a file of them with init_weights= and "
            "model.weights=null."
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options: {name} does not accept them: {error}") from error
    if weights is None:
        _start_norms_at_1(model)
    else:
        print(_summary_line(model, name, num_classes, in_channels))
    return _decomposed(model, name)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "model=timm needs the package timm: install it with pip install 'qatlab[timm]'"
        ) from error
    return timm


def _start_norms_at_1(model: nn.Module) -> None:
    """Let no branch start as zeros only, from which no quantizer can take a range."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)


def _summary_line(model: nn.Module, name: str, num_classes: int, in_channels: int) -> str:
    """Return a line that says which weights were taken and what is not as it was."""
    pretrained: Any = model.pretrained_cfg
    parts = [f"weights {pretrained['tag']} of {name}"]
    if pretrained["num_classes"] != num_classes:
        parts.append(f"new: {pretrained['classifier']} (num_classes={num_classes})")
    if pretrained["input_size"][0] != in_channels:
        parts.append(f"adapted: {pretrained['first_conv']} (in_channels={in_channels})")
    return "; ".join(parts)


class _Tracer(InPlaceTracer):
    """Follows a network, and takes modules apart that do several things at once.

    Attributes:
        simpler: modules that are only a part of what they were, and the class that this part has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.simpler: dict[nn.Module, type[nn.Module]] = {}
        self._dropouts = 0

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of ``root`` in the mode in which it is."""
        self._dropouts = 0
        return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is not looked into."""
        known = type(m).__name__ in LEAVES
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return what a call of a module makes."""
        kind = type(m).__name__ if type(m).__module__.startswith("timm.") else ""
        given: Any = m  # whose attributes are those of its class
        if kind == "BatchNormAct2d":
            x = self._call_leaf(m, nn.BatchNorm2d, args[0])
            for part in (given.drop, given.act):
                x = x if isinstance(part, nn.Identity) else part(x)
            return x
        if kind == "Linear":
            return self._call_leaf(m, nn.Linear, args[0])
        if kind == "Conv2dSame":
            x = _padded(args[0], given.kernel_size, given.stride, given.dilation)
            return self._call_leaf(m, nn.Conv2d, x)
        if kind == "AvgPool2dSame":
            x = _padded(args[0], given.kernel_size, given.stride)
            return self._call_leaf(m, nn.AvgPool2d, x)
        if kind == "MaxPool2dSame":
            lowest = -float("inf")
            x = _padded(args[0], given.kernel_size, given.stride, given.dilation, lowest)
            return self._call_leaf(m, nn.MaxPool2d, x)
        if kind == "ConvMlp" and hasattr(m, "input_kernel_size"):  # VGG's looks at sizes first
            return given.act2(given.fc2(given.drop(given.act1(given.fc1(args[0])))))
        return super().call_module(m, forward, args, kwargs)

    def _call_leaf(self, m: nn.Module, kind: type[nn.Module], x: Any) -> Any:
        self.simpler[m] = kind
        return self.create_proxy("call_module", self.path_of_module(m), (x,), {})

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: dict[str, Any], *more: Any, **other: Any
    ) -> Any:
        """Return what stands for the result of a call; a dropout becomes a module."""
        if target is F.dropout and kwargs["training"] is self.root.training:
            path = f"functional_dropout_{self._dropouts}"
            self._dropouts += 1
            self.root.add_module(path, nn.Dropout(kwargs["p"]))
            return super().create_proxy("call_module", path, args, {})
        return super().create_proxy(kind, target, args, kwargs, *more, **other)


def _decomposed(model: nn.Module, name: str) -> nn.Module:
    """Return the same network, of modules that quantization knows."""
    tracer = _Tracer()
    graphs = []
    try:
        for training in (False, True):
            graphs.append(tracer.trace(model.train(training)))
    except ConfigError:
        raise
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model.name={name} cannot be traced: {reason}") from error
    codes = [str(graph).splitlines() for graph in graphs]
    for one, other in zip_longest(*codes, fillvalue=""):
        if one != other:
            raise ConfigError(
                f"model.name={name} cannot be traced: it computes differently in training and "
                f"in evaluation ({(one or other).strip()})"
            )
    for node in graphs[1].nodes:
        if node.target in WEIGHTED and not _is_constant(model, node.args[1]):
            *_, (_, kind) = node.meta["nn_module_stack"].values()
            raise ConfigError(
                f"model.name={name} cannot be quantized: {kind.__name__} computes its weights "
                "itself."
            )
    for module, kind in tracer.simpler.items():
        module.__class__ = kind
    return fx.GraphModule(model, graphs[1], type(model).__name__)


def _is_constant(model: nn.Module, node: fx.Node) -> bool:
    """Tell whether a node is a buffer, such as the filter of a blur."""
    return node.op == "get_attr" and str(node.target) in dict(model.named_buffers())


def _padded(
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    dilation: Any = (1, 1),
    value: float = 0.0,
) -> Tensor:
    """Return ``x`` padded so that the output has ceil(size / stride) rows and columns.

    A kernel that reaches over r pixels needs r - stride + (-size mod stride) of them, half of them,
    rounded down, on top and on the left. Written so that it can be traced.
    """
    amounts: list[int] = []
    for axis in (1, 0):
        reach = (kernel_size[axis] - 1) * dilation[axis] + 1
        if reach < stride[axis]:
            if reach > 1:
                raise ConfigError(f"a stride of {stride} skips pixels of a kernel of {kernel_size}")
            amounts += [0, 0]
            continue
        total = reach - stride[axis] + (-x.size(axis - 2)) % stride[axis]
        amounts += [total // 2, total - total // 2]
    return F.pad(x, amounts, value=value)
