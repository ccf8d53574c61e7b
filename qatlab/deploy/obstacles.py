"""Which forms a network can have, before it is trained: the forms themselves are tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.deploy.c import check_c
from qatlab.deploy.integer import Codes, IntegerNetwork, with_rescale
from qatlab.deploy.integer.lowering import Obstacle, try_to_lower
from qatlab.deploy.pixels import AS_GIVEN
from qatlab.errors import ConfigError, did_you_mean
from qatlab.quant import quantizers
from qatlab.quant.calibration import as_if_started
from qatlab.quant.convert import IMAGE_SHAPE
from qatlab.quant.evaluating import evaluating

RESCALE = "fixed32"


def _qdq(network: IntegerNetwork) -> None:
    from qatlab.deploy.onnx.qdq import QdqWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    QdqWriter(network, lowest_opset(network)).write({})


def _qonnx(network: IntegerNetwork) -> None:
    from qatlab.deploy.onnx.qonnx import QonnxWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    QonnxWriter(network, lowest_opset(network, of_floats=True)).write({})


def _integer(network: IntegerNetwork) -> None:
    from qatlab.deploy.onnx.integer import IntegerWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    IntegerWriter(with_rescale(network, RESCALE), lowest_opset(network)).write({})


def _c(network: IntegerNetwork) -> None:
    check_c(with_rescale(network, RESCALE))


FORMS: Mapping[str, Callable[[IntegerNetwork], None]] = {
    "integer": _integer,
    "qdq": _qdq,
    "qonnx": _qonnx,
    "c": _c,
}
OF_FLOATS = ("qdq", "qonnx")  # forms in which parts of a network may stay float


def obstacles(
    model: nn.Module,
    input_codes: Sequence[Codes] | None = None,
    example_input: Tensor | None = None,
    tried: Collection[str] = OF_FLOATS,
) -> dict[str, tuple[Obstacle, ...]]:
    """Return what stands in the way of each form of a network.

    The network is lowered and written with the values that it has, be it trained or not, and is
    afterwards as it was. What only training decides is not known before: whether an accumulator
    fits into 32 bits, for example, is told for the weights that there are.

    Args:
        model: what :func:`qatlab.quantize` returned, on the CPU.
        input_codes: those of each channel of the images; by default bytes from 0 to 1.
        example_input: ``(1, C, H, W)``; by default zeros in the shape that it was quantized for.
        tried: of a network of which parts stay float, forms that are written, which takes seconds;
            others of :data:`OF_FLOATS` are taken to have no obstacles.

    Returns:
        By form, ``integer``, ``qdq``, ``qonnx`` and ``c``, the obstacles; none where it can leave.
    """
    if not quantizers(model):
        reason = "the network is float: give it quantizers, such as quant=sat_4bit."
        return dict.fromkeys(FORMS, (Obstacle("network", type(model).__name__, reason),))
    meta: Any = model.meta
    example = torch.zeros(meta[IMAGE_SHAPE]) if example_input is None else example_input
    codes = [AS_GIVEN] * example.shape[1] if input_codes is None else input_codes
    logging.disable(logging.WARNING)  # of values that nothing has been made of yet
    try:
        with torch.no_grad(), evaluating(model), as_if_started(model):
            network, found = try_to_lower(model, codes, example)
            if not found:
                return {form: _of_form(network, form) for form in FORMS}
            own = _of_floats(model, example, [form for form in OF_FLOATS if form in tried])
            found = tuple(replace(one, in_float=not any(own.values())) for one in found)
            return {form: own.get(form, found) for form in FORMS}
    finally:
        logging.disable(logging.NOTSET)


def forms_of(target: object) -> list[str]:
    """Return the forms that ``target`` of the configuration asks for.

    Raises:
        ConfigError: for a form that there is not.
    """
    if target is None:
        return []
    asked = [target] if isinstance(target, str) else target
    for form in asked if isinstance(asked, Sequence) else [asked]:
        if form not in FORMS:
            hint = did_you_mean(str(form), FORMS)
            raise ConfigError(
                f"target={form} is no form of a network.{hint} Accepted: {', '.join(FORMS)}, a "
                "list of these, or null."
            )
    return [str(form) for form in asked]  # type: ignore[attr-defined] # a sequence, as seen above


def check_target(target: object, found: Mapping[str, Sequence[Obstacle]]) -> None:
    """Raise a ConfigError if a network cannot have a form that ``target`` asks for."""
    for form in forms_of(target):
        if own := found[form]:
            more = f" ({len(own) - 1} more: mode=plan lists them)" if len(own) > 1 else ""
            raise ConfigError(f"target={form}: the network cannot leave so: {own[0].reason}{more}")


def told(found: Mapping[str, Sequence[Obstacle]], tried: Collection[str] = OF_FLOATS) -> str:
    """Return one line that says in which forms a network can be exported.

    Args:
        found: what stands in the way of each.
        tried: as it was asked for.
    """
    free = [form for form, own in found.items() if not own]
    if len(free) == len(found):
        return f"Can be exported as {', '.join(free)}."
    form, own = next((form, own) for form, own in found.items() if own)
    more = f" ({len(own) - 1} more: mode=plan lists them)" if len(own) > 1 else ""
    if not free:
        return f"Cannot be exported: {own[0].reason}{more}"
    floats = _told_floats(own, [form for form in free if form in OF_FLOATS and form not in tried])
    return f"Can be exported as {', '.join(free)}{floats}, but not as {form}: {own[0].reason}{more}"


def _told_floats(own: Sequence[Obstacle], untried: Sequence[str]) -> str:
    """Return which parts of a network stay float."""
    parts = [one.layer for one in own if one.in_float]
    if not parts:
        return ""
    names = ", ".join([*parts[:3], *["..."] * (len(parts) > 3)])
    also = f"; mode=plan tries {', '.join(untried)}" if untried else ""
    return f" with {len(parts)} part{'s' * (len(parts) > 1)} in float ({names}{also})"


def listed(found: Mapping[str, Sequence[Obstacle]]) -> list[str]:
    """Return lines with all obstacles, each with the forms that it stands in the way of."""
    by_obstacle: dict[Obstacle, list[str]] = {}
    for form, own in found.items():
        for obstacle in own:
            by_obstacle.setdefault(obstacle, []).append(form)
    return [f"  {', '.join(forms)}: {obstacle.reason}" for obstacle, forms in by_obstacle.items()]


def _of_floats(
    model: nn.Module, example: Tensor, tried: Sequence[str]
) -> dict[str, tuple[Obstacle, ...]]:
    """Return what stands in the way of each form in which parts of a network stay float."""
    found: dict[str, tuple[Obstacle, ...]] = dict.fromkeys(OF_FLOATS, ())
    if not (tried and find_spec("onnx") and find_spec("onnxscript")):
        return found
    from qatlab.deploy.onnx import float_parts
    from qatlab.deploy.onnx.qdq import QdqWriter
    from qatlab.deploy.onnx.qonnx import QonnxWriter

    writers = {"qdq": QdqWriter, "qonnx": QonnxWriter}
    try:
        marked = float_parts.Marked(model)
        exported = marked.export(example, marked.lowest_opset())
    except ConfigError as error:
        return found | dict.fromkeys(tried, (_obstacle("", error),))
    for form in tried:
        try:
            float_parts.write(exported, writers[form], {})
        except ConfigError as error:
            found[form] = (_obstacle(form, error),)
    return found


def _obstacle(form: str, error: ConfigError) -> Obstacle:
    """Return what a message tells that begins with a layer."""
    return Obstacle(str(error).partition(" ")[0].rstrip(":"), form, str(error))


def _of_form(network: IntegerNetwork, form: str) -> tuple[Obstacle, ...]:
    if form != "c" and not find_spec("onnx"):
        return ()  # nothing is written then; what can be known without it is known
    try:
        FORMS[form](network)
    except ConfigError as error:
        return (_obstacle(form, error),)
    return ()
