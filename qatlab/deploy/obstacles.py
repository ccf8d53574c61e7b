"""Which forms a network can have, before it is trained: the forms themselves are tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.deploy.c import check_c
from qatlab.deploy.integer import Codes, IntegerNetwork, with_rescale
from qatlab.deploy.integer.lowering import Obstacle, try_to_lower
from qatlab.deploy.integer.operations import AS_GIVEN
from qatlab.deploy.onnx.readers import READERS, Reader, check_layers
from qatlab.errors import ConfigError, wrong
from qatlab.quant import quantizers
from qatlab.quant.calibration import as_if_started
from qatlab.quant.convert import IMAGE_SHAPE
from qatlab.quant.evaluating import evaluating

RESCALE = "fixed32"


def _floats(network: IntegerNetwork, kind: str, reader: Reader) -> None:
    from qatlab.deploy.onnx.stored import lowest_opset
    from qatlab.deploy.onnx.writers import WRITERS

    check_layers(reader, network)
    opset = lowest_opset(network, kind, reader)
    WRITERS[kind, reader.conventions.fused](network, opset, reader).write({})


def _integer(network: IntegerNetwork, reader: Reader = READERS["onnxruntime"]) -> None:
    from qatlab.deploy.onnx.integer import IntegerWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    check_layers(reader, network)
    opset = lowest_opset(network, "integer", reader)
    IntegerWriter(with_rescale(network, reader.rescale), opset).write({})


def _c(network: IntegerNetwork) -> None:
    check_c(with_rescale(network, RESCALE))


FORMS: Mapping[str, Callable[[IntegerNetwork], None]] = {
    "integer": _integer,
    "qdq": partial(_floats, kind="qdq", reader=READERS["onnxruntime"]),
    "qonnx": partial(_floats, kind="qonnx", reader=READERS["qonnx"]),
    "c": _c,
}
BY_READER: Mapping[str, Callable[[IntegerNetwork], None]] = {
    name: partial(_integer, reader=reader)
    if reader.formats[0] == "integer"
    else partial(_floats, kind=reader.formats[0], reader=reader)
    for name, reader in READERS.items()
    if name not in FORMS
}
OF_FLOATS = ("qdq", "qonnx")  # forms in which parts of a network may stay float

IN_INTEGERS = frozenset(  # forms, and readers of one, in which functions are tables of codes
    {"integer", "c", *(name for name, own in READERS.items() if own.formats[0] == "integer")}
)


def obstacles(
    model: nn.Module,
    input_codes: Sequence[Codes] | None = None,
    example_input: Tensor | None = None,
    tried: Collection[str] = OF_FLOATS,
) -> dict[str, tuple[Obstacle, ...]]:
    """Return what stands in the way of each form of a network.

    The network is lowered and written with the values that it has, be it trained or not, and is
    afterwards as it was. What only training decides is not known before: whether an accumulator
    fits into 32 bits, for example, is decided for the weights that there are.

    Args:
        model: what :func:`qatlab.quantize` returned, on the CPU.
        input_codes: those of each channel of the images; by default bytes from 0 to 1.
        example_input: ``(1, C, H, W)``; by default zeros in the shape that it was quantized for.
        tried: forms, and readers whose files are to be tried, too. Of a network of which parts
            stay float, forms that are written, which takes seconds; others of :data:`OF_FLOATS` are
            taken to have no obstacles.

    Returns:
        By form, ``integer``, ``qdq``, ``qonnx``, ``c`` and the readers, the obstacles; none where
        it can leave.
    """
    asked = {**FORMS, **{name: BY_READER[name] for name in tried if name in BY_READER}}
    if not quantizers(model):
        reason = "the network is float: give it quantizers, such as quant=sat_4bit."
        return dict.fromkeys(asked, (Obstacle("network", type(model).__name__, reason),))
    meta: Any = model.meta
    example = torch.zeros(meta[IMAGE_SHAPE]) if example_input is None else example_input
    codes = [AS_GIVEN] * example.shape[1] if input_codes is None else input_codes
    logging.disable(logging.WARNING)  # of values that nothing has been made of yet
    try:
        with torch.no_grad(), evaluating(model), as_if_started(model):
            network, found = try_to_lower(model, codes, example)
            if not found:
                return {form: _of_form(network, form, write) for form, write in asked.items()}
            own = _of_floats(model, example, [form for form in asked if form in tried])
            found = tuple(replace(one, in_float=not any(own.values())) for one in found)
            return {form: own.get(form, found) for form in asked}
    finally:
        logging.disable(logging.NOTSET)


def forms_of(target: object) -> list[str]:
    """Return the forms and readers that ``target`` of the configuration asks for.

    Raises:
        ConfigError: for one that there is not.
    """
    if target is None:
        return []
    asked = [target] if isinstance(target, str) else target
    for form in asked if isinstance(asked, Sequence) else [asked]:
        if form not in FORMS and form not in BY_READER:
            advice = "A list of these is accepted, too, and null."
            raise wrong("target", form, (*FORMS, *BY_READER), advice)
    return [str(form) for form in asked]  # type: ignore[attr-defined] # a sequence, as seen above


def check_target(target: object, found: Mapping[str, Sequence[Obstacle]]) -> None:
    """Raise a ConfigError if a network cannot have a form that ``target`` asks for."""
    for form in forms_of(target):
        if own := found[form]:
            more = f" ({len(own) - 1} more: mode=plan lists them)" if len(own) > 1 else ""
            raise ConfigError(f"target={form}: the network cannot leave so: {own[0].reason}{more}")


def in_short(found: Mapping[str, Sequence[Obstacle]], tried: Collection[str] = OF_FLOATS) -> str:
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
    floats = _left_in_float(own, [form for form in free if form in OF_FLOATS and form not in tried])
    return f"Can be exported as {', '.join(free)}{floats}, but not as {form}: {own[0].reason}{more}"


def _left_in_float(own: Sequence[Obstacle], untried: Sequence[str]) -> str:
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
    tried = [name for name in tried if _form_and_reader(name)[0] in OF_FLOATS]
    if not (tried and find_spec("onnx") and find_spec("onnxscript")):
        return found
    from qatlab.deploy.onnx import float_parts
    from qatlab.deploy.onnx.writers import WRITERS

    try:
        marked = float_parts.Marked(model)
        exported = marked.export(example, marked.lowest_opset())
    except ConfigError as error:
        return found | dict.fromkeys(tried, (_obstacle("", error),))
    for form in tried:
        kind, reader = _form_and_reader(form)
        try:
            writer = WRITERS[kind, reader.conventions.fused]
            float_parts.write(exported, writer, {}, reader)
        except ConfigError as error:
            found[form] = (_obstacle(form, error),)
    return found


def _form_and_reader(name: str) -> tuple[str, Reader]:
    """Return the form that is written for a form or a reader, and its reader."""
    if name in FORMS:
        return name, READERS["qonnx" if name == "qonnx" else "onnxruntime"]
    return READERS[name].formats[0], READERS[name]


def _obstacle(form: str, error: ConfigError) -> Obstacle:
    """Return what a message tells that begins with a layer."""
    return Obstacle(str(error).partition(" ")[0].rstrip(":"), form, str(error))


def _of_form(
    network: IntegerNetwork, form: str, write: Callable[[IntegerNetwork], None]
) -> tuple[Obstacle, ...]:
    if form != "c" and not find_spec("onnx"):
        return ()  # nothing is written then; what can be known without it is known
    try:
        write(network)
    except ConfigError as error:
        return (_obstacle(form, error),)
    return ()
