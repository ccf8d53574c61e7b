"""Which forms a network can have, before it is trained: the forms themselves are tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from qatlab.deploy.c import check_c
from qatlab.deploy.integer import Codes, IntegerNetwork, with_rescale
from qatlab.deploy.integer.lowering import Lowering, Obstacle
from qatlab.deploy.pixels import AS_GIVEN
from qatlab.deploy.readers import READERS, Reader, check_layers
from qatlab.errors import ConfigError, did_you_mean
from qatlab.quant import quantizers
from qatlab.quant.calibration import as_if_started
from qatlab.quant.convert import IMAGE_SHAPE
from qatlab.quant.evaluating import evaluating

RESCALE = "fixed32"


def _qdq(network: IntegerNetwork, reader: Reader = READERS["onnxruntime"]) -> None:
    from qatlab.deploy.onnx.fused import FusedWriter
    from qatlab.deploy.onnx.qdq import QdqWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    check_layers(reader, network)
    writer = FusedWriter if reader.conventions.fused else QdqWriter
    writer(network, lowest_opset(network, "qdq", reader), reader).write({})


def _qonnx(network: IntegerNetwork, reader: Reader = READERS["qonnx"]) -> None:
    from qatlab.deploy.onnx.qonnx import QonnxWriter
    from qatlab.deploy.onnx.stored import lowest_opset

    QonnxWriter(network, lowest_opset(network, "qonnx", reader), reader).write({})


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
    "qdq": _qdq,
    "qonnx": _qonnx,
    "c": _c,
}
WRITTEN: Mapping[str, Callable[..., None]] = {"integer": _integer, "qdq": _qdq, "qonnx": _qonnx}
BY_READER: Mapping[str, Callable[[IntegerNetwork], None]] = {
    name: partial(WRITTEN[reader.formats[0]], reader=reader)
    for name, reader in READERS.items()
    if name not in FORMS
}

IN_INTEGERS = frozenset(  # forms, and readers of one, in which functions are tables of codes
    {"integer", "c", *(name for name, own in READERS.items() if own.formats[0] == "integer")}
)


def obstacles(
    model: nn.Module,
    input_codes: Sequence[Codes] | None = None,
    example_input: Tensor | None = None,
    readers: Sequence[str] = (),
) -> dict[str, tuple[Obstacle, ...]]:
    """Return what stands in the way of each form of a network.

    The network is lowered and written with the values that it has, be it trained or not, and is
    afterwards as it was. What only training decides is not known before: whether an accumulator
    fits into 32 bits, for example, is told for the weights that there are.

    Args:
        model: what :func:`qatlab.quantize` returned, on the CPU.
        input_codes: those of each channel of the images; by default bytes from 0 to 1.
        example_input: ``(1, C, H, W)``; by default zeros in the shape that it was quantized for.
        readers: of :data:`~qatlab.deploy.readers.READERS`, to try their files, too.

    Returns:
        By form, ``integer``, ``qdq``, ``qonnx``, ``c`` and the readers, the obstacles; none where
        it can leave.
    """
    asked = {**FORMS, **{name: BY_READER[name] for name in readers if name in BY_READER}}
    if not quantizers(model):
        reason = "the network is float: give it quantizers, such as quant=sat_4bit."
        return dict.fromkeys(asked, (Obstacle("network", type(model).__name__, reason),))
    meta: Any = model.meta
    example = torch.zeros(meta[IMAGE_SHAPE]) if example_input is None else example_input
    codes = [AS_GIVEN] * example.shape[1] if input_codes is None else input_codes
    logging.disable(logging.WARNING)  # of values that nothing has been made of yet
    try:
        with torch.no_grad(), evaluating(model), as_if_started(model):
            lowering = Lowering(model, codes, example, goes_on=True)
            network = lowering.network()
            if lowering.obstacles:
                return dict.fromkeys(asked, tuple(lowering.obstacles))
            return {form: _of_form(network, form, write) for form, write in asked.items()}
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
            names = (*FORMS, *BY_READER)
            hint = did_you_mean(str(form), names)
            raise ConfigError(
                f"target={form} is no form of a network and no reader.{hint} Accepted: "
                f"{', '.join(names)}, a list of these, or null."
            )
    return [str(form) for form in asked]  # type: ignore[attr-defined] # a sequence, as seen above


def check_target(target: object, found: Mapping[str, Sequence[Obstacle]]) -> None:
    """Raise a ConfigError if a network cannot have a form that ``target`` asks for."""
    for form in forms_of(target):
        if own := found[form]:
            more = f" ({len(own) - 1} more: mode=plan lists them)" if len(own) > 1 else ""
            raise ConfigError(f"target={form}: the network cannot leave so: {own[0].reason}{more}")


def told(found: Mapping[str, Sequence[Obstacle]]) -> str:
    """Return one line that says in which forms a network can be exported."""
    free = [form for form, own in found.items() if not own]
    if len(free) == len(found):
        return f"Can be exported as {', '.join(free)}."
    form, own = next((form, own) for form, own in found.items() if own)
    more = f" ({len(own) - 1} more: mode=plan lists them)" if len(own) > 1 else ""
    if not free:
        return f"Cannot be exported: {own[0].reason}{more}"
    return f"Can be exported as {', '.join(free)}, but not as {form}: {own[0].reason}{more}"


def listed(found: Mapping[str, Sequence[Obstacle]]) -> list[str]:
    """Return lines with all obstacles, each with the forms that it stands in the way of."""
    by_obstacle: dict[Obstacle, list[str]] = {}
    for form, own in found.items():
        for obstacle in own:
            by_obstacle.setdefault(obstacle, []).append(form)
    return [f"  {', '.join(forms)}: {obstacle.reason}" for obstacle, forms in by_obstacle.items()]


def _of_form(
    network: IntegerNetwork, form: str, write: Callable[[IntegerNetwork], None]
) -> tuple[Obstacle, ...]:
    if form != "c" and not find_spec("onnx"):
        return ()  # nothing is written then; what can be known without it is known
    try:
        write(network)
    except ConfigError as error:
        return (Obstacle(str(error).partition(" ")[0].rstrip(":"), form, str(error)),)
    return ()
