"""Which programs compute from the exported files of trained runs what was trained.

    python -m benchmarks.readers RUN [RUN ...] [--images 200] [--opsets 13 21]

Each run is exported in each form at each opset, and each reader computes the first images of the
test set. Printed is a Markdown table: for each run and opset, the images to which a reader gives
the class of the fake-quantized network. What is not installed is left out: onnxruntime, onnxslim,
onnxsim, openvino. Columns that end in "(!)" are files that export calls unfit for their reader.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.deploy.onnx_file import onnx_file
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.deploy.verify.forms import FakeQuantized
from qatlab.deploy.verify.trained import batches_of
from qatlab.run.loading import load_arguments

Array = NDArray[Any]


def _onnxruntime(file: Any, images: Array, optimised: bool = True) -> Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file.SerializeToString(), options)
    return np.asarray(session.run(None, {"image": images})[0])


def _as_written(file: Any, images: Array) -> Array:
    return _onnxruntime(file, images, optimised=False)


def _onnxslim(file: Any, images: Array) -> Array:
    import onnxslim

    return _onnxruntime(onnxslim.slim(_copy(file)), images)


def _onnxsim(file: Any, images: Array) -> Array:
    import onnxsim

    return _onnxruntime(onnxsim.simplify(_copy(file))[0], images)


def _openvino(file: Any, images: Array, **settings: str) -> Array:
    import openvino

    core = openvino.Core()
    model = core.read_model(file.SerializeToString())
    return np.asarray(core.compile_model(model, "CPU", settings)(images)[0])


def _openvino_float32(file: Any, images: Array) -> Array:
    return _openvino(file, images, INFERENCE_PRECISION_HINT="f32")


def _copy(file: Any) -> Any:
    return type(file).FromString(file.SerializeToString())


@dataclass(frozen=True)
class Column:
    """A file, and a program that computes it.

    Attributes:
        title: what the table calls it.
        package: that has to be installed.
        computed: outputs of a file for images.
        format: of the file.
        reader: that it was exported for.
        rescale: of ``integer``.
    """

    title: str
    package: str
    computed: Callable[[Any, Array], Array]
    format: str
    reader: str
    rescale: str | None = None


COLUMNS = (
    Column("qdq, onnxruntime as written", "onnxruntime", _as_written, "qdq", "onnxruntime"),
    Column("qdq, onnxruntime", "onnxruntime", _onnxruntime, "qdq", "onnxruntime"),
    Column("qdq, onnxslim", "onnxslim", _onnxslim, "qdq", "onnxruntime"),
    Column("qdq, onnxsim", "onnxsim", _onnxsim, "qdq", "onnxruntime"),
    Column("qdq for OpenVINO, OpenVINO f32", "openvino", _openvino_float32, "qdq", "openvino"),
    Column("qdq, OpenVINO (!)", "openvino", _openvino_float32, "qdq", "onnxruntime"),
    Column("integer, onnxruntime", "onnxruntime", _onnxruntime, "integer", "onnxruntime"),
    Column("integer, onnxslim", "onnxslim", _onnxslim, "integer", "onnxruntime"),
    Column("integer, onnxsim", "onnxsim", _onnxsim, "integer", "onnxruntime"),
    Column("integer for OpenVINO, OpenVINO", "openvino", _openvino, "integer", "openvino"),
    Column("integer for OpenVINO, onnxruntime", "onnxruntime", _onnxruntime, "integer", "openvino"),
    Column("integer, OpenVINO (!)", "openvino", _openvino, "integer", "onnxruntime"),
)


def rows(trained: Trained, count: int, opsets: Sequence[int]) -> list[list[str]]:
    """Return the images that each column gets right, a row for each opset."""
    images = torch.cat([images for images, _ in batches_of(trained.data, "test", count)])
    pixels = bytes_of(images, pixel_codes(trained.data)).to(torch.uint8)
    network = FakeQuantized(trained.model)
    with network, torch.no_grad():
        expected = network(images, pixels).outputs.argmax(1)
    return [
        [
            str(opset),
            *(_right(column, trained, opset, images, pixels, expected) for column in found()),
        ]
        for opset in opsets
    ]


def _right(
    column: Column, trained: Trained, opset: int, images: Tensor, pixels: Tensor, expected: Tensor
) -> str:
    file = onnx_file(trained, column.format, opset, column.rescale, column.reader)
    given = pixels if column.format == "integer" else images.float()
    try:
        outputs = column.computed(file, given.numpy())
    except Exception as error:  # of the reader
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:60]
    return str(int((torch.from_numpy(outputs).flatten(1).argmax(1) == expected).sum()))


def found() -> list[Column]:
    """Return the columns whose programs are installed."""
    return [column for column in COLUMNS if find_spec(column.package)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--opsets", type=int, nargs="+", default=[13, 21])
    given = parser.parse_args()
    lines = []
    for run in given.runs:
        trained = load_arguments([run], "best")
        lines += [[trained.source, *row] for row in rows(trained, given.images, given.opsets)]
    packages = dict.fromkeys(["onnx", *(column.package for column in found())])
    print(", ".join(f"{name} {version(name)}" for name in packages), "\n")
    titles = ["run", "opset", *(column.title for column in found())]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
