"""Programs that read exported files, as forms of a network: each is run where it is installed."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qatlab.deploy.integer import IntegerNetwork
from qatlab.deploy.onnx.readers import READERS
from qatlab.deploy.trained import Trained
from qatlab.deploy.verify.forms import Answer, Form, InOnnxruntime, finished, read_onnx
from qatlab.deploy.verify.trained import sites_of
from qatlab.errors import ConfigError, wrong

Floats = NDArray[np.float32]
PRECISION = "fixed<48,16>"  # of hls4ml where the file says none: scales and biases are floats there
SUMS = "fixed<48,26>"  # of hls4ml, where it must be said: sums of bytes times bytes
PACKAGES = {  # what has to be installed for a reader
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "qonnx": ("onnx", "qonnx"),
    "hls4ml": ("onnx", "qonnx", "hls4ml"),
}
EXTRAS = {"onnxruntime": "onnx"}  # of pyproject.toml, where it is not called like the reader


def check_reader(name: str) -> None:
    """Raise a ConfigError for a reader that cannot be run here."""
    if name not in PACKAGES:
        advice = f"{name} is not run by qatlab." if name in READERS else ""
        raise wrong("--reader", name, PACKAGES, advice)
    for package in PACKAGES[name]:
        if not find_spec(package):
            extra = EXTRAS.get(name, name)
            raise ConfigError(
                f"--reader {name} needs the package {package}: pip install 'qatlab[{extra}]'."
            )
    if name == "hls4ml" and not shutil.which("g++"):
        raise ConfigError("--reader hls4ml compiles with g++, which is not installed.")


def forms_in(
    name: str,
    trained: Trained,
    network: IntegerNetwork | None,
    files: Sequence[Path],
    tolerance: float,
) -> list[Form]:
    """Return what a reader computes of files of a network.

    Args:
        name: of the reader, see :data:`PACKAGES`.
        trained: the network.
        network: the same in whole numbers; None where it has no such form.
        files: of its, or none to write the one that the reader takes.
        tolerance: see :class:`~qatlab.deploy.verify.forms.Form`.

    Raises:
        ConfigError: for what it does not take.
    """
    given = [(f"{name}, {path}", *read_onnx(path, READERS[name].formats)) for path in files]
    if not given:
        from qatlab.deploy.onnx_file import onnx_file

        kind = READERS[name].formats[0]
        given = [(f"{name}, {kind}", onnx_file(trained, reader=name), kind)]
    if name == "onnxruntime":
        sites = sites_of(trained) if network is None else network
        return [
            InOnnxruntime(called, file, kind, sites, way, tolerance * (kind == "integer"))
            for called, file, kind in given
            for way in (False, True)
        ]
    return [InReader(called, name, file, kind, network, tolerance) for called, file, kind in given]


class InReader:
    """A file in a program that shows outputs only.

    Args:
        name: of the form.
        reader: of the file.
        file: its content.
        kind: its format; ``integer`` takes bytes.
        network: what it was made of; None where parts of it stay float.
        tolerance: see :class:`~qatlab.deploy.verify.forms.Form`.
    """

    def __init__(
        self,
        name: str,
        reader: str,
        file: Any,
        kind: str,
        network: IntegerNetwork | None,
        tolerance: float,
    ) -> None:
        self.name, self.tolerance = name, tolerance
        self._reader, self._takes_bytes = reader, kind == "integer"
        self._last = network.output.function if network and self._takes_bytes else ""
        with self._telling():
            self._computed = COMPUTED[reader](file)

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`~qatlab.deploy.verify.forms.Form`."""
        given = pixels.numpy() if self._takes_bytes else images.float().numpy()
        with self._telling():
            outputs = torch.from_numpy(self._computed(given)).double().flatten(1)
        return Answer(finished(outputs, self._last))

    look_inside = __call__

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Keep what the program prints to itself, and tell what goes wrong in it in a sentence."""
        try:
            with (
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"{self.name}: {self._reader} cannot compute it: {reason}") from error


def _openvino(file: Any) -> Callable[[Floats], Floats]:
    """Return what OpenVINO computes on the processor: floats in float32, not in bfloat16."""
    import openvino
    from onnx import TensorProto

    core = openvino.Core()
    model = core.read_model(file.SerializeToString())
    takes_bytes = file.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    settings = {} if takes_bytes else {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    return lambda images: np.asarray(compiled(images)[0])


def _qonnx(file: Any) -> Callable[[Floats], Floats]:
    """Return what qonnx's own executor computes, one image after the other."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    model = ModelWrapper(file)
    output = file.graph.output[0].name

    def computed(images: Floats) -> Floats:
        each = (images[i : i + 1] for i in range(len(images)))
        return np.concatenate([execute_onnx(model, {"image": one})[output] for one in each])

    return computed


def _hls4ml(file: Any) -> Callable[[Floats], Floats]:
    """Return what hls4ml's C simulation computes; it is compiled in a folder of its own."""
    import hls4ml
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.util.cleanup import cleanup_model

    logging.getLogger("hls4ml").setLevel(logging.ERROR)
    model = cleanup_model(ModelWrapper(file))
    model = model.transform(ConvertToChannelsLastAndClean(make_input_channels_last=True))
    model = cleanup_model(model.transform(GemmToMatMul()))
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend="Vitis", default_precision=PRECISION
    )
    config["Model"]["Strategy"] = "Resource"
    for node in model.graph.node:
        if any(one.name == "group" and one.i > 1 for one in node.attribute):
            # If not, hls4ml multiplies a norm into such weights, though it has their quantizer,
            # and reads them in another order.
            for layer in (node.name, f"DepthwiseConv2D_{node.name}"):
                own = config["LayerName"].setdefault(layer, {})
                own.setdefault("Precision", {})["result"] = SUMS
                own["Strategy"] = "Latency"
    folder = tempfile.TemporaryDirectory(prefix="qatlab_hls4ml_")
    program = hls4ml.converters.convert_from_onnx_model(
        model, output_dir=folder.name, io_type="io_stream", backend="Vitis", hls_config=config
    )
    program.compile()

    def computed(images: Floats) -> Floats:
        assert folder.name  # it lives as long as what was compiled in it
        rows = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        return np.asarray(program.predict(rows)).reshape(len(images), -1)

    return computed


COMPUTED: dict[str, Callable[[Any], Callable[[Floats], Floats]]] = {
    "openvino": _openvino,
    "qonnx": _qonnx,
    "hls4ml": _hls4ml,
}
