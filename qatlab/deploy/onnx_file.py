"""The ONNX file of a trained network, and what its metadata say."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import onnx

from qatlab.deploy.integer import with_rescale
from qatlab.deploy.integer.lowering import try_to_lower
from qatlab.deploy.integer.narrowing import in_parts
from qatlab.deploy.integer.operations import AS_GIVEN
from qatlab.deploy.onnx import float_parts
from qatlab.deploy.onnx.graph import runtime
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.readers import READERS, check_layers, check_rescale, chosen
from qatlab.deploy.onnx.stored import lowest_opset
from qatlab.deploy.onnx.writers import WRITERS
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.errors import ConfigError
from qatlab.results import record


def onnx_file(
    trained: Trained,
    kind: str | None = None,
    opset: int | None = None,
    rescale: str | None = None,
    reader: str | None = None,
) -> onnx.ModelProto:
    """Return the ONNX file of a network.

    Args:
        trained: the network.
        kind: ``qdq``, ``qonnx`` or ``integer``; None for the reader's.
        opset: None for the lowest of the reader that stores weights at their width.
        rescale: of ``integer``, one of :data:`~qatlab.deploy.integer.RESCALES`; None for the
            reader's.
        reader: one of :data:`~qatlab.deploy.onnx.readers.READERS`; None for the first that takes
            the format.

    Raises:
        ConfigError: for what has no such form, naming layer, site or option.
    """
    name, kind = chosen(reader, kind, opset)
    own, model, data = READERS[name], trained.model, trained.data
    facts = facts_of(trained, kind) | {"reader": name}
    if kind == "integer":
        network = trained.lowered()
        check_layers(own, network)
        opset = opset or lowest_opset(network, kind, own)
        rescale = rescale or own.rescale
        check_rescale(own, rescale)
        facts |= {"runtime": runtime(opset), "rescale": rescale}
        if network.output.function:
            facts["left out"] = network.output.function
        network = with_rescale(network, rescale)
        if network.is_narrow:
            facts["channels in parts"] = "{} of {}".format(*in_parts(network))
        return IntegerWriter(network, opset).write(facts)
    example, writer = data.example_input(), WRITERS[kind, own.conventions.fused]
    network, obstacles = try_to_lower(model, [AS_GIVEN] * data.in_channels, example)
    if not obstacles:
        check_layers(own, network)
        opset = opset or lowest_opset(network, kind, own)
        facts["runtime"] = runtime(opset)
        return writer(network, opset, own).write(facts)
    parts = float_parts.Marked(model)
    lowest, highest = own.opsets
    opset = opset or min(max(lowest, parts.lowest_opset(of_floats=kind == "qonnx")), highest)
    exported = parts.export(example, opset)
    facts |= {"runtime": runtime(opset), "batch": str(exported.batch)}
    facts["float parts"] = json.dumps([one.layer for one in obstacles])
    return float_parts.write(exported, writer, facts, own)


def facts_of(trained: Trained, kind: str) -> dict[str, str]:
    """Return what a file says of its network: text, or JSON."""
    data, table = trained.data, trained.table
    layers = [
        {"name": row.name, "part": row.part, "bits": row.bits, **row.quantizer}
        for row in table.layers
    ]
    image: dict[str, Any] = {
        "input": "bytes (N, C, H, W)" if kind == "integer" else "float32 (N, C, H, W)",
        "before that": "what data: in the configuration says",
    }
    try:
        codes = pixel_codes(data)
    except ConfigError:  # no bytes stand for these images, which files of floats take
        codes = []
    if codes:
        image["float = step * byte + offset"] = {
            "step": [own.step for own in codes],
            "offset": [own.offset for own in codes],
        }
    return {
        "format": kind,
        "source": trained.source,
        "qatlab": version("qatlab"),
        **record.commits(),
        "class_names": json.dumps(data.class_names),
        "preprocessing": json.dumps(image),
        "layers": json.dumps(layers),
        "config": trained.config,
    }
