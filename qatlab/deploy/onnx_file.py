"""The ONNX file of a trained network, and what its metadata say."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import onnx

from qatlab.deploy.integer import lower, with_rescale
from qatlab.deploy.onnx import OPSET
from qatlab.deploy.onnx.graph import OPSETS
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.qonnx import QonnxWriter
from qatlab.deploy.pixels import AS_GIVEN, pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.errors import ConfigError
from qatlab.results import record

FORMATS = ("qdq", "qonnx", "integer")


def onnx_file(
    trained: Trained, kind: str, opset: int = OPSET, rescale: str = "fixed32"
) -> onnx.ModelProto:
    """Return the ONNX file of a network.

    Args:
        trained: the network.
        kind: one of :data:`FORMATS`.
        opset: 13 to 25.
        rescale: of ``integer``, one of :data:`~qatlab.deploy.integer.RESCALES`.

    Raises:
        ConfigError: for what has no such form, naming layer, site or option.
    """
    lowest, highest = OPSETS
    if not lowest <= opset <= highest:
        raise ConfigError(f"--opset {opset} is wrong. Accepted: {lowest} to {highest}.")
    model, data = trained.model, trained.data
    facts = facts_of(trained, kind)
    if kind == "integer":
        network = trained.lowered()
        facts["rescale"] = rescale
        if network.output.function:
            facts["left out"] = network.output.function
        return IntegerWriter(with_rescale(network, rescale), opset).write(facts)
    network = lower(model, [AS_GIVEN] * data.in_channels, data.example_input())
    writer = QonnxWriter if kind == "qonnx" else QdqWriter
    return writer(network, opset).write(facts)


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
        "commit": record.commit() or "",
        "class_names": json.dumps(data.class_names),
        "preprocessing": json.dumps(image),
        "layers": json.dumps(layers),
        "config": trained.config,
    }
