"""A float network that is described layer by layer, such as an imported one."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatlab.errors import ConfigError, wrong
from qatlab.models.graph_layers import TYPES, Layer, Place, Source, chosen, filler, sizes

IMAGE = "image"  # name of the network's input
KEY = "model.layers"


class LayerGraph(nn.Module):
    """A network of named layers; ``conf/model/layer_graph.yaml`` explains their types and keys.

    Each layer is a module of its name, so that the parameters of a layer ``conv1`` are
    ``conv1.weight`` and ``conv1.bias``.

    Attributes:
        shapes: ``(C, H, W)`` of each layer's output by name; of a fully-connected layer
            ``(C, 1, 1)``.
        outputs: names of the layers whose outputs :meth:`forward` returns.

    Args:
        input_shape: ``C, H, W`` of an image.
        layers: by name, in an order where inputs come before those that read them.
        outputs: names, the primary output first; None: the last layer.
        weight_init: how weights are drawn that have no ``weight_init`` of their own; None: from
            ``N(0, 0.05)``, as N2D2 does.
        bias_init: the same for biases.
        num_classes: what the primary output must have, unless it is of the images' shape (an
            auto-encoder); None: anything.
        in_channels: what the images have; None: what ``input_shape`` says.

    Raises:
        ConfigError: naming the layer, its key and what is accepted.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Mapping[str, Mapping[str, Any]],
        outputs: Sequence[str] | None = None,
        weight_init: Mapping[str, Any] | None = None,
        bias_init: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not layers:
            raise ConfigError(
                f"{KEY} is empty: a network needs layers, such as "
                "{fc: {type: linear, channels: 10}}, from an experiment or an imported .ini."
            )
        self.input_shape = _checked_shape(input_shape, in_channels)
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self.outputs = _checked_outputs(outputs, list(layers))
        self._plan: dict[str, tuple[tuple[str, ...], Layer]] = {}
        fills = (
            filler("model.weight_init", weight_init, bias=False),
            filler("model.bias_init", bias_init, bias=True),
        )
        # self: what the code that torch.fx writes calls the network.
        reserved = {IMAGE, "self", *dir(self), *dir(fx.GraphModule(nn.Module(), fx.Graph()))}
        sources = {IMAGE: Source(IMAGE, self.input_shape, False)}
        built: dict[str, tuple[Place, Layer]] = {}
        for name, node in layers.items():
            key = f"{KEY}.{name}"
            _check_name(name, reserved)
            build = chosen(key, node, TYPES, own="input")
            inputs = _inputs(key, node, list(sources), list(layers))
            place = Place(key, tuple(sources[i] for i in inputs), *fills, dict(built))
            layer = build(place)
            if layer.module is not None:
                self.add_module(name, layer.module)
            built[name] = (place, layer)
            sources[name] = Source(name, layer.shape, layer.flat)
            self.shapes[name] = layer.shape
            self._plan[name] = ((*inputs, *layer.reads), layer)
        self._check_all_are_read()
        self._check_classes(num_classes)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output for images ``(N, C, H, W)``, or all outputs where there are several.

        One of ``C x 1 x 1`` is ``(N, C)``, others are ``(N, C, H, W)``.
        """
        tensors = {IMAGE: image}
        for name, (inputs, layer) in self._plan.items():
            module = self._modules.get(name)
            made = layer.compute(module, [tensors[i] for i in inputs])
            if getattr(module, "return_indices", False):
                made, tensors[f"{name}.indices"] = made[0], made[1]
            tensors[name] = made
        results = tuple(self._result(name, tensors[name]) for name in self.outputs)
        return results[0] if len(results) == 1 else results

    def _result(self, name: str, x: Tensor) -> Tensor:
        vector = self.shapes[name][1:] == (1, 1) and not self._plan[name][1].flat
        return torch.flatten(x, 1) if vector else x

    def _check_all_are_read(self) -> None:
        read = {i.partition(".")[0] for inputs, _ in self._plan.values() for i in inputs}
        for name in self._plan:
            if name not in read and name not in self.outputs:
                raise ConfigError(
                    f"{KEY}.{name} is read by no layer and is not an output; delete it, or add it "
                    "to model.outputs."
                )

    def _check_classes(self, num_classes: int | None) -> None:
        name = self.outputs[0]
        shape = self.shapes[name]
        accepted = [self.input_shape, (num_classes, 1, 1)]
        accepted += [(1, 1, 1)] if num_classes == 2 else []
        if num_classes is not None and shape not in accepted:
            raise ConfigError(
                f"{KEY}.{name} makes {sizes(shape)} of an image, but the data have {num_classes} "
                f"classes. Accepted: {num_classes} x 1 x 1, or what an image is, "
                f"{sizes(self.input_shape)}."
            )


def _checked_shape(shape: Sequence[int], in_channels: int | None) -> tuple[int, int, int]:
    sizes = list(shape)
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise wrong("model.input_shape", sizes, "[channels, height, width] of an image")
    if in_channels is not None and sizes[0] != in_channels:
        accepted = (
            f"{[in_channels, *sizes[1:]]}, as the images of the data have {in_channels} channels"
        )
        raise wrong("model.input_shape", sizes, accepted)
    return sizes[0], sizes[1], sizes[2]


def _checked_outputs(outputs: Sequence[str] | None, names: list[str]) -> tuple[str, ...]:
    if outputs is None:
        return (names[-1],)
    for name in outputs:
        if name not in names:
            raise wrong("model.outputs", name, map(str, names))
    if not outputs or len(set(outputs)) < len(outputs):
        accepted = "names of layers, each once, or null for the last one"
        raise wrong("model.outputs", list(outputs), accepted)
    return tuple(outputs)


def _check_name(name: object, reserved: set[str]) -> None:
    key = f"{KEY}.{name}"
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise ConfigError(
            f"{key} is not a valid name of a layer. Accepted: letters, digits and _, with a letter "
            "first."
        )
    if name in reserved or keyword.iskeyword(name):
        raise ConfigError(f"{key} is a name that Python, torch or qatlab uses; try {name}_.")


def _inputs(key: str, node: Mapping[str, Any], above: list[str], names: list[str]) -> list[str]:
    """Return the names of what a layer reads; ``above`` has the image first."""
    if "input" not in node:
        return above[-1:]
    given = node["input"]
    inputs = [given] if isinstance(given, str) else given
    if not isinstance(inputs, (list, tuple)) or not inputs:
        accepted = f"the name of a layer above, {IMAGE}, or a list of them"
        raise wrong(f"{key}.input", given, accepted)
    for name in inputs:
        if name in above:
            continue
        if name in names:
            raise ConfigError(
                f"{key}.input={name} is defined below; a layer comes after those that it reads."
            )
        raise wrong(f"{key}.input", name, above)
    return list(inputs)
