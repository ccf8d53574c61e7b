"""The forms of a network, and what each answers to a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qatlab.deploy.integer import IntegerNetwork, compute
from qatlab.deploy.integer.folding import in_steps
from qatlab.deploy.targets import Firmware, HostProgram
from qatlab.errors import ConfigError
from qatlab.quant import hold_weights, release_weights
from qatlab.quant.learned import ActivationQuantizer

HINT = "pip install 'qatlab[onnx]'"


@dataclass
class Answer:
    """What a form answers to a batch.

    Attributes:
        outputs: ``(N, classes)``, float64; the first of several, which is the one that is scored.
        codes: of each site, by its name; empty for a form that does not show them.
        positions: of each site, what was rounded, in steps; of exact integers, and of a
            fake-quantized network that has no integer form.
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

    Args:
        model: the network.
        positions: show what its sites round, too, for a network without an integer form.
    """

    name, tolerance = "fake-quantized", 0.0

    def __init__(self, model: nn.Module, positions: bool = False) -> None:
        self.model, self._codes = model, dict[str, Tensor]()
        self._shows_positions, self._positions = positions, dict[str, Tensor]()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Hold the weights, and watch the sites."""
        hold_weights(self.model)
        for name, module in self.model.named_modules():
            if isinstance(module, ActivationQuantizer):
                self._hooks.append(module.register_forward_hook(partial(self._keep, name)))
                if self._shows_positions:
                    keep = partial(self._keep_position, name)
                    self._hooks.append(module.register_forward_pre_hook(keep))

    def __exit__(self, *_: object) -> None:
        """Leave the network as it was."""
        release_weights(self.model)
        while self._hooks:
            self._hooks.pop().remove()

    def _keep(self, name: str, site: ActivationQuantizer, args: Any, output: Tensor) -> None:
        self._codes[name] = in_steps(site, output).round_().float()

    def _keep_position(self, name: str, site: ActivationQuantizer, args: Any) -> None:
        values = site.float_values(args[0].clone())  # some functions work in place
        position = in_steps(site, values)
        self._positions[name] = position.clamp(site.grid.q_min, site.grid.q_max)

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`."""
        returned = self.model(as_weights(self.model, images))
        outputs = (returned if isinstance(returned, Tensor) else returned[0]).double()
        found = (_by_image(shown, len(images)) for shown in (self._codes, self._positions))
        return Answer(outputs.flatten(1), *found)

    look_inside = __call__


def as_weights(model: nn.Module, images: Tensor) -> Tensor:
    """Return images in the type of a network's weights: float64 after trainer.precision=64-true."""
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return images.to(next(iter(types))) if len(types) == 1 else images


class AsIntegers:
    """An integer network."""

    def __init__(self, network: IntegerNetwork, rescale: str, tolerance: float) -> None:
        self.name, self.network = f"integers, {rescale}", network
        self.is_exact = rescale == "float"
        self.tolerance = 0.0 if self.is_exact else tolerance
        self._last: tuple[Tensor, Answer] | None = None

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`. The last batch is kept, as other forms ask for it, too."""
        if self._last is None or self._last[0] is not pixels:
            found = compute(self.network, pixels, shows_positions=self.is_exact)
            outputs = finished(found.outputs, self.network.output.function)
            self._last = pixels, Answer(outputs, found.codes, found.positions)
        return self._last[1]

    look_inside = __call__


class OnTarget:
    """A C program on a core in QEMU, or on this machine.

    Args:
        name: of where it runs.
        built: the program.
        integers: what the program was made of.
        tolerance: see :class:`Form`.

    Attributes:
        built: the program.
        apart: images of which an output is another one than that of the integer network.
    """

    def __init__(
        self, name: str, built: Firmware | HostProgram, integers: AsIntegers, tolerance: float
    ) -> None:
        self.name, self.tolerance = f"c, {name}", tolerance
        self.built, self.apart = built, 0
        self._integers = integers

    def __call__(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute, and count; see :class:`Form`."""
        answer = self._answer(pixels)
        expected = self._integers(images, pixels).outputs
        self.apart += int((answer.outputs != expected).any(1).sum())
        return answer

    def look_inside(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute; see :class:`Form`.

        A program shows no codes: where it answers as the integers do, it had theirs.
        """
        answer, inside = self._answer(pixels), self._integers.look_inside(images, pixels)
        return inside if torch.equal(answer.outputs, inside.outputs) else answer

    def _answer(self, pixels: Tensor) -> Answer:
        output = self._integers.network.output
        numbers = torch.from_numpy(self.built.outputs(pixels.numpy())).double()
        return Answer(finished(numbers * 2.0**-output.unit, output.function))


class InOnnxruntime:
    """An ONNX file in onnxruntime.

    Args:
        name: of the file.
        file: its content.
        kind: ``qdq``, ``qonnx``, whose operators it gets as functions, or ``integer``, which takes
            bytes.
        network: what it was made of; names the sites. Or the steps of the sites, by their names,
            where parts of it stay float.
        optimised: whether onnxruntime may change the graph.
        tolerance: see :class:`Form`.
    """

    def __init__(
        self,
        name: str,
        file: Any,
        kind: str,
        network: IntegerNetwork | Mapping[str, float],
        optimised: bool,
        tolerance: float,
    ) -> None:
        how = "optimised" if optimised else "as written"
        self.name, self.tolerance = f"{name}, {how}", tolerance
        self.takes_bytes, self.optimised = kind == "integer", optimised
        suffix = "_codes" if kind == "qdq" else ""
        written = {name for node in file.graph.node for name in node.output}
        self._last = ""
        if isinstance(network, IntegerNetwork):
            self._last = network.output.function if self.takes_bytes else ""
            sites = {site: list(parts) for site, parts in network.sites.items()}
            steps = {site: network.codes[parts[0]].step for site, parts in sites.items()}
        else:
            sites, steps = {site: [site] for site in network}, dict(network)
        self._parts = {
            site: [f"{part}{suffix}" for part in parts]
            for site, parts in sites.items()
            if all(f"{part}{suffix}" in written for part in parts)
        }
        # A Quant of QONNX makes codes times their step.
        self._units = {site: steps[site] if kind == "qonnx" else 1.0 for site in self._parts}
        (image,) = file.graph.input
        self._one_by_one = image.type.tensor_type.shape.dim[0].dim_value == 1
        shown = [part for parts in self._parts.values() for part in parts]
        self._names = [file.graph.output[0].name, *shown]
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
        (outputs,) = self._run(self._session, self._names[:1], images, pixels)
        return Answer(self._answered(outputs))

    def _answered(self, outputs: Any) -> Tensor:
        return finished(torch.from_numpy(outputs).double().flatten(1), self._last)

    def look_inside(self, images: Tensor, pixels: Tensor) -> Answer:
        """Compute, and show all codes."""
        outputs, *codes = self._run(self._inside, self._names, images, pixels)
        found = {}
        for site, parts in self._parts.items():
            made = torch.from_numpy(np.concatenate([codes.pop(0) for _ in parts], 1))
            if (unit := self._units[site]) != 1.0:
                made = (made.double() / unit).round_()
            found[site] = made.float()
        return Answer(self._answered(outputs), _by_image(found, len(images)))

    def _run(self, session: Any, names: Sequence[str], images: Tensor, pixels: Tensor) -> list[Any]:
        given = pixels if self.takes_bytes else images
        batches = torch.split(given, 1) if self._one_by_one else (given,)
        try:
            made = [session.run(names, {"image": batch.numpy()}) for batch in batches]
            return [np.concatenate(parts) for parts in zip(*made, strict=True)]
        except Exception as error:  # of onnxruntime, such as for images of another size
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ConfigError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return ConfigError(f"{self.name}: onnxruntime cannot compute it: {reason}")


def _by_image(shown: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """Return what sites show with the images in front, which windows of them may have been.

    A site that has no place for each image is left out.
    """
    return {
        site: values if len(values) == images else values.reshape(images, -1)
        for site, values in shown.items()
        if len(values) % images == 0
    }


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
        words = str(getattr(error, "strerror", None) or error)
        reason = (words.strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot read {path}: {reason}") from error
    if facts.get("format") not in formats:
        raise ConfigError(
            f"{path} is no file that can be computed. Accepted: what qatlab export has written "
            f"with --format {' or '.join(formats)}."
        )
    return file, facts["format"]
