"""Classification networks of torchvision by their names, with its pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from qatlab.errors import ConfigError, did_you_mean, wrong

# Their attention takes the weights past the layers that hold them.
NOT_QUANTIZABLE = ("swin_", "vit_")
# Their builders give them auxiliary outputs if they are not told otherwise; and the weights that
# torchvision has are for images of another mean, which the networks can turn them into.
INCEPTIONS = ("googlenet", "inception_v3")
_PLACE = "torchvision.models"  # which takes a second to import: only where it is used
RESERVED = ("weights", "progress", "num_classes", "aux_logits", "init_weights")


def torchvision_model(
    name: str,
    num_classes: int,
    in_channels: int,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a classification network of torchvision, without auxiliary outputs.

    Its names and those of its parameters are torchvision's. Where the data have another number of
    channels than 3, the first convolution is a new one; with pretrained weights and another number
    of classes than theirs, so is the last layer. What is new then is printed.

    Args:
        name: its name in torchvision, such as ``efficientnet_b0``.
        num_classes: outputs.
        in_channels: channels of the images.
        weights: pretrained weights of torchvision: ``DEFAULT`` or a name such as ``IMAGENET1K_V1``;
            None starts from random ones. They are fetched once, and kept where torch.hub keeps
            its files.
        options: further arguments of torchvision's function, such as ``dropout``.

    Raises:
        ConfigError: for a name that torchvision has not, a network of another kind, or weights that
            cannot be fetched.
    """
    _check_name(name)
    for key in options or {}:
        if key in RESERVED:
            raise ConfigError(f"model.options.{key} is set by qatlab itself; leave it out.")
    arguments = dict(options or {})
    if name in INCEPTIONS:
        arguments.setdefault("transform_input", in_channels == 3)
    if weights is None:
        if name in INCEPTIONS:
            arguments |= {"aux_logits": False, "init_weights": True}
        model = _build(name, num_classes=num_classes, **arguments)
        if in_channels != 3:
            _renew_first_layer(model, in_channels)
        return model
    return _pretrained(name, num_classes, in_channels, weights, arguments)


def _check_name(name: str) -> None:
    models = import_module(_PLACE)
    accepted = models.list_models(module=models)
    if name not in accepted:
        if name in models.list_models():
            what = models.get_model_builder(name).__module__.split(".")[2]
            raise ConfigError(
                f"model.name={name} is a network for {what}, not for the classification of images."
            )
        raise ConfigError(
            f"model.name={name} is unknown.{did_you_mean(name, accepted)} Accepted: the "
            f"classification networks of torchvision, such as {', '.join(accepted[:3])}."
        )
    if name.startswith(NOT_QUANTIZABLE):
        raise ConfigError(
            f"model.name={name} cannot be quantized: its attention reads the weights without "
            "calling their layers; maxvit_t and convnext_tiny do not."
        )


def _build(name: str, **arguments: Any) -> nn.Module:
    try:
        model: nn.Module = import_module(_PLACE).get_model(name, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options: {name} does not accept them: {error}") from error
    return model


def _pretrained(
    name: str, num_classes: int, in_channels: int, weights: str, arguments: dict[str, Any]
) -> nn.Module:
    known = import_module(_PLACE).get_model_weights(name).__members__
    if weights not in known:
        raise wrong("model.weights", weights, [*known, "null"], f"These are of {name}.")
    chosen = known[weights]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = chosen.url.rpartition("/")[2]
    try:
        model = _build(name, weights=chosen, **arguments)
    except OSError as error:
        raise ConfigError(
            f"model.weights={weights}: {chosen.url} cannot be downloaded "
            f"({getattr(error, 'reason', error)}); put {file} into {folder}, or take a file of "
            "your own with init_weights= and model.weights=null."
        ) from error
    except (RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.weights={weights}: {folder / file} is damaged, or of another network "
            f"({reason}); delete it."
        ) from error
    if name == "inception_v3":
        model.aux_logits = False  # type: ignore[assignment] # no parameter, no module
        model.AuxLogits = None  # type: ignore[assignment]
    n_pretrained = len(chosen.meta["categories"])
    new = []
    if num_classes != n_pretrained:
        new.append(f"{_renew_last_layer(model, num_classes)} (num_classes={num_classes})")
    if in_channels != 3:
        new.append(f"{_renew_first_layer(model, in_channels)} (in_channels={in_channels})")
    print(f"weights {chosen.name} of {name}" + (f"; new: {', '.join(new)}" if new else ""))
    return model


def _renew_first_layer(model: nn.Module, in_channels: int) -> str:
    """Replace the first convolution by one for so many channels; return its path."""
    convolutions = [(str(p), m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    path, old = convolutions[0]
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type] # torch declares pairs as plain tuples
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    model.set_submodule(path, new)
    return path


def _renew_last_layer(model: nn.Module, num_classes: int) -> str:
    """Replace the last convolution or fully-connected layer by a new one; return its path."""
    kinds = (nn.Conv2d, nn.Linear)
    layers = [(str(p), m) for p, m in model.named_modules() if isinstance(m, kinds)]
    path, old = layers[-1]
    if isinstance(old, nn.Linear):
        model.set_submodule(path, nn.Linear(old.in_features, num_classes))
    else:  # of SqueezeNet
        model.set_submodule(path, nn.Conv2d(old.in_channels, num_classes, 1))
    return path
