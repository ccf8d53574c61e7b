"""The forms of a network, and what each answers to a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qatlab.deploy.integer import IntegerNetwork, compute
from qatlab.errors import ConfigError
from qatlab.quant import hold_weights, release_weights
from qatlab.quant.learned import ActivationQuantizer

HINT = "pip install 'qatlab[onnx]'"


@dataclass
class Answer:
    """What a form answers to a batch.

    Attributes:
        outputs: ``(N, classes)``, float64.
        codes: of each site, by its name; empty for a form that does not show them.
        positions: of each site, what was rounded, in steps; of integer networks only.
    """

    outputs: Tensor
    codes: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)

    def of(self, images: slice) -> Answer:
        """Return the answer to some of the images."""
        return Answer(
            self.outputs[images],
            {name: codes[images] for name, codes in self.codes.items()},
            {name: position[images] for name, position in self.positions.items()},
        )


class Form(Protocol):
    """Something that computes the network."""

    name: str
    tolerance: float  # share of images that may get another class without being a tie

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute: images ``(N, C, H, W)`` as the network gets them, and as bytes."""
        ...

    def look_inside(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute, and show all codes."""
        ...


class FakeQuantized:
    """The network as it was trained.

    While it is entered (``with``), its weights are held quantized, and its codes are read.
    """

    name, tolerance = "fake-quantized", 0.0

    def __init__(self, model: nn.Module) -> None:
        self.model, self._codes = model, dict[str, Tensor]()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Hold the weights, and watch the sites."""
        hold_weights(self.model)
        for name, module in self.model.named_modules():
            if isinstance(module, ActivationQuantizer):
                self._hooks.append(module.register_forward_hook(partial(self._keep, name)))

    def __exit__(self, *_: object) -> None:
        """Leave the network as it was."""
        release_weights(self.model)
        while self._hooks:
            self._hooks.pop().remove()

    def _keep(self, name: str, site: ActivationQuantizer, args: Any, output: Tensor) -> None:
        step = site.grid.step(site.parameter.double())
        offset = 0 if site.learned_offset is None else site.learned_offset.double()
        self._codes[name] = ((output.double() - offset) / step).round()

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`."""
        outputs = self.model(images).double()
        return Answer(outputs.flatten(1), dict(self._codes))

    look_inside = __call__


class AsIntegers:
    """An integer network."""

    def __init__(self, network: IntegerNetwork, rescale: str, tolerance: float) -> None:
        self.name, self.network = f"integers, {rescale}", network
        self.tolerance = 0.0 if rescale == "float" else tolerance

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`."""
        found = compute(self.network, pixels)
        outputs = finished(found.outputs, self.network.output.function)
        return Answer(outputs, found.codes, found.positions)

    look_inside = __call__


class InOnnxruntime:
    """An ONNX file in onnxruntime.

    Args:
        name: of the file.
        file: its content.
        kind: ``qdq``, ``qonnx``, whose operators it gets as functions, or ``integer``, which takes
            bytes.
        network: what it was made of; names the sites.
        optimised: whether onnxruntime may change the graph.
        tolerance: see :class:`Form`.
    """

    def __init__(
        self,
        name: str,
        file: Any,
        kind: str,
        network: IntegerNetwork,
        optimised: bool,
        tolerance: float,
    ) -> None:
        how = "optimised" if optimised else "as written"
        self.name, self.tolerance = f"{name}, {how}", tolerance
        self.takes_bytes, self.optimised = kind == "integer", optimised
        suffix = "_codes" if kind == "qdq" else ""
        self._one_by_one = file.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
        written = {name for node in file.graph.node for name in node.output}
        self._last = network.output.function if self.takes_bytes else ""
        self._parts = {
            site: [f"{part}{suffix}" for part in parts]
            for site, parts in network.sites.items()
            if all(f"{part}{suffix}" in written for part in parts)
        }
        # A Quant of QONNX makes codes times their step.
        self._units = {
            site: network.codes[network.sites[site][0]].step if kind == "qonnx" else 1.0
            for site in self._parts
        }
        shown = [part for parts in self._parts.values() for part in parts]
        try:
            self._session = _session(file, optimised)
            self._inside = _session(file, optimised, shown)
        except ImportError as error:
            raise ConfigError(f"ONNX files are computed by onnxruntime: {HINT}.") from error
        except Exception as error:  # of onnxruntime
            raise self._refused(error) from error

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`."""
        if not self.optimised:
            return self.look_inside(images, pixels)
        (outputs,) = self._run(self._session, images, pixels)
        return Answer(self._answered(outputs))

    def _answered(self, outputs: Any) -> Tensor:
        return finished(torch.from_numpy(outputs).double().flatten(1), self._last)

    def look_inside(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute, and show all codes."""
        outputs, *codes = self._run(self._inside, images, pixels)
        found = {}
        for site, parts in self._parts.items():
            made = torch.from_numpy(np.concatenate([codes.pop(0) for _ in parts], 1)).double()
            found[site] = (made / self._units[site]).round()
        return Answer(self._answered(outputs), found)

    def _run(self, session: Any, images: Tensor, pixels: Tensor) -> list[Any]:
        image = pixels.numpy() if self.takes_bytes else images.numpy()
        at_once = image[:, None] if self._one_by_one else [image]
        try:
            answers = [session.run(None, {"image": part}) for part in at_once]
            return [np.concatenate(own) for own in zip(*answers, strict=True)]
        except Exception as error:  # of onnxruntime, such as for images of another size
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ConfigError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return ConfigError(f"{self.name}: onnxruntime cannot compute it: {reason}")


def finished(outputs: Tensor, function: str) -> Tensor:
    """Return outputs behind the last softmax or log_softmax, which whole numbers leave out."""
    return outputs if not function else getattr(torch, function)(outputs, 1)


def _session(file: Any, optimised: bool, more: Sequence[str] = ()) -> Any:
    import onnxruntime

    from qatlab.deploy.verify.qonnx_functions import with_functions

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    content = with_functions(file, more).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def read_onnx(path: Path, formats: Sequence[str] = ("qdq", "qonnx", "integer")) -> tuple[Any, str]:
    """Return an ONNX file of this project, and its format.

    Args:
        path: of the file.
        formats: that are taken.

    Raises:
        ConfigError: if it is none.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"ONNX files are read by the package onnx: {HINT}.") from error
    try:
        file = onnx.load(path, load_external_data=False)
        facts = {entry.key: entry.value for entry in file.metadata_props}
    except Exception as error:  # of protobuf or the file system
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot read {path}: {reason}") from error
    if facts.get("format") not in formats:
        raise ConfigError(
            f"{path} is no file that can be computed. Accepted: what qatlab export has written "
            f"with --format {' or '.join(formats)}."
        )
    return file, facts["format"]
