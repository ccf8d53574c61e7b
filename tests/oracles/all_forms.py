"""Trains a random network for some steps, and compares all forms of it.

The fake-quantized network in float64 is what is right. A code that differs has to be a tie: what
was rounded lies in the middle between two levels, up to the errors of the arithmetic. What follows
in that image is not compared then, as it has other inputs.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from integer_reference import compute_one
from onnx.reference import ReferenceEvaluator
from qonnx_operators import BipolarQuant, LogSoftmax, MaxPool, Quant
from random_programs import Program, Recipe, Unfit
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import quant
from qatlab.deploy.c import c_program
from qatlab.deploy.integer import Codes, Computed, IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.integer.operations import AS_GIVEN, Group
from qatlab.deploy.integer.vectorised import results
from qatlab.deploy.onnx import float_parts
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.qonnx import QonnxWriter
from qatlab.deploy.verify.forms import FakeQuantized, InOnnxruntime, finished
from qatlab.errors import QatlabError, QuantRuleError
from qatlab.quant.learned import ActivationQuantizer

Network = IntegerNetwork | Mapping[str, float]
IMAGES = 6
EXACT_TIE = 1e-6  # steps; float64
TIE = 1e-3  # steps; float32
EXACT = 1e-9  # of the largest output
NEAR = 1e-4


class Difference(Exception):
    """Two forms of a network compute other numbers, or one of them ends in a stack trace.

    Args:
        kind: what is different, the same for the same fault in another network.
        detail: for this network.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class Refused(Exception):
    """An error of qatlab in one sentence."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(stage, message)  # as given: a process hands it on to another
        self.stage, self.message = stage, message

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}"


@dataclass
class CCase:
    """A program in C, and what it has to answer.

    Attributes:
        program: the network.
        source: of the C program.
        images: bytes ``(N, C, H, W)``.
        outputs: of the integer network, ``(N, outputs)``, float64.
    """

    program: Program
    source: str
    images: Tensor
    outputs: Tensor


@dataclass
class Outcome:
    """What was found of one network that has no difference.

    Attributes:
        refused: by form, in which sentence; ``network`` for all forms.
        right: forms that were compared.
        ties: how many images part at a tie, over all forms.
        c: the C program, which is still to be run.
    """

    refused: dict[str, str] = field(default_factory=dict)
    right: list[str] = field(default_factory=list)
    ties: int = 0
    c: CCase | None = None


@dataclass
class Answer:
    """Outputs ``(N, outputs)`` and the codes of each site, by its name."""

    outputs: Tensor
    codes: dict[str, Tensor]


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Turn errors into :class:`Refused` and :class:`Difference`."""
    try:
        yield
    except (Difference, Refused, Unfit):
        raise
    except QatlabError as error:
        raise Refused(name, str(error)) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = next((f for f in reversed(frames) if "/qatlab/" in f.filename), frames[-1])
        where = f"{Path(own.filename).name}:{own.name}"
        message = str(error).strip().splitlines()[:1]
        raise Difference(
            f"{name}: {type(error).__name__} in {where}", f"line {own.lineno}: {message}"
        ) from error


def flat(outputs: Any) -> Tensor:
    """Return all outputs as ``(N, outputs)``."""
    if isinstance(outputs, Tensor):
        return outputs.flatten(1)
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.cat([flat(part) for part in parts], 1)


def images_of(program: Program) -> tuple[Tensor, list[Codes]]:
    """Return bytes ``(N, C, H, W)``, and what they stand for in each channel."""
    recipe = program.recipe
    random = torch.Generator().manual_seed(recipe.seed)
    pixels = torch.randint(0, 256, (IMAGES, recipe.channels, *recipe.size), generator=random)
    pixels[0] = pixels[0] // 128 * 255  # black and white
    if not recipe.normalised:
        return pixels, [Codes(0, 255, 1 / 255)] * recipe.channels
    codes = []
    for channel in range(recipe.channels):
        mean, deviation = 0.45 + 0.03 * channel, 0.25 - 0.02 * channel
        codes.append(Codes(0, 255, 1 / 255 / deviation, -mean / deviation))
    return pixels, codes


def real(pixels: Tensor, codes: list[Codes]) -> Tensor:
    """Return what the network gets for bytes, in float64."""
    step, offset = (
        torch.tensor([getattr(c, name) for c in codes], dtype=torch.float64)[:, None, None]
        for name in ("step", "offset")
    )
    return pixels.double() * step + offset


def trained(program: Program, images: Tensor) -> nn.Module:
    """Return the network, quantized, with some steps of training behind it, in float64.

    Raises:
        Refused: if it cannot be quantized or trained.
        Difference: if it computes something else before anything is quantized.
        Unfit: if torch cannot train it.
    """
    recipe = program.recipe
    torch.manual_seed(recipe.seed)
    network = program.network()
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            _vary(norm)
    for layer in network.modules():
        mask = dict(layer.named_buffers(recurse=False)).get("weight_mask")
        if mask is not None and "weight" in dict(layer.named_parameters(recurse=False)):
            layer.weight.data.mul_(mask)  # a float layer does not look at a mask that is no pruning
    seen = images.float()
    try:
        with torch.no_grad():
            expected = flat(network.eval()(seen.clone()))
    except RuntimeError as error:
        raise Unfit(f"torch cannot compute it: {error}") from error
    network.train()
    parts = [
        partial(getattr(quant, name), **arguments)
        for name, arguments in (recipe.weight, recipe.activation)
    ]
    rules = [quant.Rule.parse(key, node) for key, node in recipe.rules.items()]
    with stage("quantize"):
        model = _quantized(network, parts, rules, seen[:1], recipe)
    with stage("float phase"), torch.no_grad():
        quant.set_phase(model, quant.Phase.FLOAT)
        found = flat(model.eval()(seen.clone()))
        _assert_close("float phase", "outputs", found, expected, NEAR)
    try:
        with stage("train"):
            _train(program, model, seen)
    except Difference:
        _assert_trainable(program, seen)
        raise
    if not all(p.isfinite().all() for p in (*model.parameters(), *model.buffers())):
        raise Unfit("its training diverged")
    return model.eval().double()


def _quantized(
    network: nn.Module, parts: Any, rules: Any, images: Tensor, recipe: Recipe
) -> nn.Module:
    try:
        switches = (recipe.inputs_of_functions, recipe.one_step_for_sums)
        return quant.quantize(network, *parts, rules, images, *switches)[0]
    except QuantRuleError as error:
        if not str(error).startswith("quant.one_step_for_sums=true has no effect"):
            raise
        return quant.quantize(network, *parts, rules, images, recipe.inputs_of_functions)[0]


def _train(program: Program, model: nn.Module, images: Tensor) -> None:
    model.train()
    clamps = program.recipe.weight[0] == "SatWeight"
    quant.set_phase(model, quant.Phase.CLAMP if clamps else quant.Phase.FLOAT)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.05, momentum=0.9)
    _step(model, images, optimizer)
    quant.start_quantizers(model, [images.clone()])
    for number, site in enumerate(m for m in model.modules() if _learns(m)):
        site.parameter.data.mul_(0.97 - 0.0137 * (number % 20))  # no ratio that makes ties
        if site.learned_offset is not None:  # behind a ReLU it starts at 0, and may stay there
            size = site.parameter.detach() * (-0.71, 0.57, 0.43)[number % 3]
            site.learned_offset.data.add_(size)
    for _ in range(2):
        _step(model, images, optimizer)


def _assert_trainable(program: Program, images: Tensor) -> None:
    """Raise Unfit for a network that torch cannot train, as with in-place operations."""
    network = program.network()
    try:
        _step(network, images, torch.optim.SGD(network.parameters(), lr=0.0))
    except (RuntimeError, ValueError) as error:  # or there are no parameters
        raise Unfit(f"torch cannot train it: {error}") from error


def _learns(module: nn.Module) -> bool:
    return isinstance(module, ActivationQuantizer) and module.parameter.requires_grad


def _vary(norm: Any) -> None:
    """Give a batch norm numbers as training would; some of its channels turn their input around."""
    if norm.weight is not None:
        nn.init.uniform_(norm.weight, -1.0, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    if norm.running_mean is not None:
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)


def _step(model: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    outputs = flat(model(images.clone()))  # some networks change their images
    labels = torch.arange(len(images)) % outputs.shape[1]
    loss = F.cross_entropy(outputs, labels) + 0.01 * outputs.square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def fake_quantized(model: nn.Module, images: Tensor) -> Answer:
    """Return what the trained network computes, with the codes of its sites in order."""
    codes: dict[str, Tensor] = {}

    def keep(name: str, site: ActivationQuantizer, args: Any, output: Tensor) -> None:
        step = site.size.detach().abs().double() / site.grid.divisor
        offset = 0 if site.learned_offset is None else site.learned_offset
        codes[name] = ((output - offset) / step).round()

    handles = [
        module.register_forward_hook(partial(keep, name))
        for name, module in model.named_modules()
        if isinstance(module, ActivationQuantizer)
    ]
    outputs = flat(model(images.clone()))
    for handle in handles:
        handle.remove()
    return Answer(outputs, codes)


def _assert_close(form: str, what: str, found: Tensor, expected: Tensor, near: float) -> None:
    if found.shape != expected.shape:
        raise Difference(
            f"{form}: shape of {what}", f"{tuple(found.shape)}, not {tuple(expected.shape)}"
        )
    if not expected.numel():
        return
    apart = (found - expected).abs().max().item()
    size = expected.abs().max().item()
    if not apart <= near * (1 + size):
        raise Difference(
            f"{form}: {what}", f"apart by {apart:.2e}, where the largest is {size:.2e}"
        )


def compare(
    form: str,
    expected: Answer,
    exact: Computed,
    found: Mapping[str, Tensor],
    outputs: Tensor,
    tie: float,
    near: float,
) -> int:
    """Compare a form with the fake-quantized network.

    Args:
        form: its name.
        expected: of the fake-quantized network.
        exact: of the integer network in float64, which knows what was rounded.
        found: codes of the form.
        outputs: of the form.
        tie: how far from the middle between two levels a tie may be, in steps.
        near: how far outputs may be apart, relative to the largest one.

    Returns:
        How many images part at a tie.

    Raises:
        Difference: if they part elsewhere.
    """
    agree = torch.ones(len(outputs), dtype=torch.bool)
    known = agree.clone()  # where exact arithmetic has the same inputs
    for name, codes in expected.codes.items():
        if name not in found:
            continue
        own = found[name].double()
        if own.shape != codes.shape:
            raise Difference(
                f"{form}: shape of codes", f"{name}: {tuple(own.shape)}, not {tuple(codes.shape)}"
            )
        other = own != codes
        for i in (agree & other.flatten(1).any(1) & known).nonzero().ravel().tolist():
            position = exact.positions[name][i][other[i]]
            from_tie = (position - position.floor() - 0.5).abs().max().item()
            levels = (own - codes)[i].abs().max().item()
            if from_tie > tie or levels > 1:
                raise Difference(
                    f"{form}: codes",
                    f"{name}, image {i}: {int(other[i].sum())} of {other[i].numel()} codes, "
                    f"{from_tie:.1e} steps from a tie, {levels:.0f} levels apart",
                )
        agree &= ~other.flatten(1).any(1)
        known &= ~(exact.codes[name] != codes).flatten(1).any(1)
    _assert_close(form, "outputs", outputs.double()[agree], expected.outputs[agree], near)
    return int((~agree).sum())


def check_reference(form: str, network: IntegerNetwork, pixels: Tensor, fast: Computed) -> None:
    """Compare the slow interpreter with the vectorised one, for one image, to the last bit."""
    slow, shapes = compute_one(network, pixels[0].numpy()), network.shapes
    for op, value, _ in results(network, pixels[:1]):
        if op.group is not Group.ANSWER and value.shape[1:] != shapes[op.name]:
            raise Difference(f"interpreter, {form}: shapes", op.name)
    last = network.operations[-1].name
    given = {**{name: codes for name, codes in fast.codes.items()}, last: fast.outputs}
    for site, values in given.items():
        name = site if site in slow else network.sites[site][0]
        ordered = np.array([slow[name][place] for place in sorted(slow[name])], np.float64)
        if not np.array_equal(ordered, values[0].double().numpy().ravel()):
            raise Difference(f"interpreter, {form}: numbers", site)


def _same(form: str, one: Answer | Computed, other: Computed) -> None:
    """Compare to the last bit."""
    for name, codes in one.codes.items():
        if not torch.equal(codes.double(), other.codes[name].double()):
            count = int((codes.double() != other.codes[name].double()).sum())
            raise Difference(f"{form}: codes", f"{name}: {count} of {codes.numel()}")
    if not torch.equal(one.outputs, other.outputs):
        apart = (one.outputs - other.outputs).abs().max().item()
        raise Difference(f"{form}: outputs", f"apart by {apart:.2e}")


def check(program: Program) -> Outcome:
    """Train a network and compare all its forms.

    Raises:
        Difference: if two of them compute other numbers, or for a stack trace.
        Unfit: if torch cannot compute or train the float network.
    """
    outcome = Outcome()
    pixels, codes = images_of(program)
    images = real(pixels, codes)
    try:
        model = trained(program, images)
        with stage("evaluate"):
            expected = fake_quantized(model, images)
        with stage("lower"):
            network = lower(model, codes, images[:1])
    except Refused as refused:
        outcome.refused["network"] = str(refused)
        return outcome
    with stage("integers"):
        exact = compute(network, pixels)
        seen = Answer(finished(exact.outputs, network.output.function), exact.codes)
        if more := exact.codes.keys() - expected.codes.keys():
            raise Difference("integers: other sites", ", ".join(sorted(more)))
        outcome.ties += compare(
            "integers", expected, exact, seen.codes, seen.outputs, EXACT_TIE, EXACT
        )
    outcome.right.append("integers")
    given = network
    try:
        with stage("lower"):
            given = lower(model, [AS_GIVEN] * len(codes), images[:1])
    except Refused as refused:  # an image whose channels differ is read in parts, this one whole
        outcome.refused |= dict.fromkeys(("qdq", "qonnx"), str(refused))
    case = _Case(program, model, pixels, images, network, given, expected, exact)
    for name, checked in FORMS.items():
        if name in outcome.refused:
            continue
        try:
            with stage(name):
                checked(outcome, case)
        except Refused as refused:
            outcome.refused[name] = str(refused)
        else:
            outcome.right.append(name)
    return outcome


def check_floats(program: Program) -> Outcome:
    """Train a network and compare files of floats, of which parts may have no integer form.

    Raises:
        Difference: if they compute other numbers, or for a stack trace.
        Unfit: if torch cannot compute or train the float network.
    """
    outcome = Outcome()
    pixels, codes = images_of(program)
    images = real(pixels, codes)
    try:
        model = trained(program, images)
        first = FakeQuantized(model, positions=True)
        with stage("evaluate"), torch.no_grad(), first:
            expected = first(images.clone(), pixels)
        with stage("export"):
            marked = float_parts.Marked(model)
            opset = max(program.recipe.opset, marked.lowest_opset())
            exported = marked.export(images[:1], opset)
    except Refused as refused:
        outcome.refused["network"] = str(refused)
        return outcome
    sites = {name: own.step for name, own in exported.sites.items()}
    given, exact = Answer(expected.outputs, expected.codes), Computed(**vars(expected))
    for kind, writer in (("qdq", QdqWriter), ("qonnx", QonnxWriter)):
        try:
            with stage(kind):
                file = float_parts.write(exported, writer, {})
        except Refused as refused:
            outcome.refused[kind] = str(refused)
            continue
        for optimised in (False, True):
            name = f"{kind}, {'optimised' if optimised else 'as written'}"
            form = _in_onnxruntime(name, file, kind, sites, optimised)
            found = form.look_inside(images.float(), pixels)
            outcome.ties += compare(name, given, exact, found.codes, found.outputs, TIE, NEAR)
        outcome.right.append(kind)
    return outcome


@dataclass
class _Case:
    program: Program
    model: nn.Module
    pixels: Tensor
    images: Tensor
    network: IntegerNetwork
    given: IntegerNetwork  # whose images are floats: what files of floats are made of
    expected: Answer
    exact: Computed


def _fixed(outcome: Outcome, case: _Case) -> None:
    """Compare rescaled integers: exactly by both interpreters, nearly with the network."""
    rescale = case.program.recipe.rescale
    network = with_rescale(case.network, rescale)
    found = compute(network, case.pixels)
    check_reference(rescale, network, case.pixels, found)
    if rescale == "fixed32":
        outputs = finished(found.outputs, network.output.function)
        outcome.ties += compare(
            "fixed32", case.expected, case.exact, found.codes, outputs, TIE, NEAR
        )


def _narrow(outcome: Outcome, case: _Case) -> None:
    """Compare sums of 24 bits with those of 64, to the last bit."""
    wide, network = (with_rescale(case.network, rescale) for rescale in ("fixed32", "sums24"))
    twin = compute(wide, case.pixels)
    found = compute(network, case.pixels)
    _same("sums24", Answer(found.outputs, found.codes), twin)
    outputs = finished(twin.outputs, network.output.function)
    twin = Computed(outputs, twin.codes, twin.positions)
    file = IntegerWriter(network, case.program.recipe.opset).write({})
    form = _in_onnxruntime("integer, sums24", file, "integer", network, True)
    found = form.look_inside(case.images, case.pixels.to(torch.uint8))
    _same(form.name, Answer(found.outputs, found.codes), twin)


def _qdq(outcome: Outcome, case: _Case) -> None:
    """Compare what onnxruntime computes of operators on floats, optimised and as written."""
    file = QdqWriter(case.given, case.program.recipe.opset).write({})
    images = case.images.float()
    for optimised in (False, True):
        name = f"qdq, {'optimised' if optimised else 'as written'}"
        form = _in_onnxruntime(name, file, "qdq", case.given, optimised)
        inside = form.look_inside(images, case.pixels)
        settings = (TIE, NEAR)
        outcome.ties += compare(
            name, case.expected, case.exact, inside.codes, inside.outputs, *settings
        )
        if optimised and not torch.equal(inside.outputs, form(images, case.pixels).outputs):
            # Without its codes as outputs, it may be changed in other ways.
            outside = form(images, case.pixels).outputs
            parted = (inside.outputs - outside).abs().flatten(1).amax(1) > NEAR
            own = Answer(case.expected.outputs, {})
            if not parted.all():
                agree = ~parted
                _assert_close(name, "outputs", outside[agree], inside.outputs[agree], NEAR)
            if parted.sum() > 1:  # one may be a tie
                compare(f"{name}, alone", own, case.exact, {}, outside, TIE, NEAR)


def _in_onnxruntime(
    name: str, file: Any, kind: str, network: Network, optimised: bool
) -> InOnnxruntime:
    try:
        return InOnnxruntime(name, file, kind, network, optimised, 0.0)
    except QatlabError as error:  # what was written has to be computed
        raise Difference(f"{name}: onnxruntime cannot compute it", str(error)) from error


def _qonnx(outcome: Outcome, case: _Case) -> None:
    """Compare what the operators of QONNX compute by their definition."""
    file = QonnxWriter(case.given, case.program.recipe.opset).write({})
    session = ReferenceEvaluator(file, new_ops=[Quant, BipolarQuant, LogSoftmax, MaxPool])
    (output,) = session.output_names
    made = session.run(None, {"image": case.images.float().numpy()}, intermediate=True)
    quants = {node.output[0] for node in file.graph.node if node.op_type == "Quant"}
    codes: dict[str, Tensor] = {}
    for site in case.exact.codes:
        parts = case.given.sites[site]
        if all(part in made for part in parts):
            found = []
            for part in parts:
                own, x = case.given.codes[part], torch.from_numpy(made[part]).double()
                offset = 0.0 if part in quants else own.offset  # which is added behind a Quant
                found.append((x - offset) / own.step)
            codes[site] = torch.cat(found, 1).round()
    outputs = torch.from_numpy(made[output]).double().flatten(1)
    outcome.ties += compare("qonnx", case.expected, case.exact, codes, outputs, TIE, NEAR)


def _integer(outcome: Outcome, case: _Case) -> None:
    """Compare ONNX of integers with the integer network, to the last bit."""
    network = with_rescale(case.network, case.program.recipe.rescale)
    twin = compute(network, case.pixels)
    outputs = finished(twin.outputs, network.output.function)
    twin = Computed(outputs, twin.codes, twin.positions)
    opset = case.program.recipe.opset
    file = IntegerWriter(network, opset).write({})
    for optimised in (False, True):
        name = f"integer, {'optimised' if optimised else 'as written'}"
        form = _in_onnxruntime(name, file, "integer", network, optimised)
        pixels = case.pixels.to(torch.uint8)
        for found in (form.look_inside(case.images, pixels), form(case.images, pixels)):
            _same(name, Answer(found.outputs, found.codes), twin)


def _c(outcome: Outcome, case: _Case) -> None:
    """Write the C program, which is run with others later."""
    network = with_rescale(case.network, case.program.recipe.rescale)
    outputs = compute(network, case.pixels).outputs
    names = [f"class {i}" for i in range(outputs.shape[1])]
    layout = ("chw", "hwc")[int(case.pixels.sum()) % 2]
    pixels = case.pixels if layout == "chw" else case.pixels.permute(0, 2, 3, 1).contiguous()
    source = c_program(network, names, layout=layout).source
    outcome.c = CCase(case.program, source, pixels, outputs)


FORMS = {
    "fixed": _fixed,
    "narrow": _narrow,
    "qdq": _qdq,
    "qonnx": _qonnx,
    "integer": _integer,
    "c": _c,
}


def reason_of(message: str) -> str:
    """Return a refusal without the names and numbers of one network."""
    stage_name, _, sentence = message.partition(": ")
    sentence = re.sub(r"'[^']*'|\[[^]]*\]|\{[^}]*\}", "_", sentence)
    sentence = re.sub(r"\b[A-Za-z]+_?\w*\d\w*(\.\w+)*|\b\w+(\.\d+)+", "_", sentence)
    return f"{stage_name}: {re.sub(r'-?[0-9][0-9,.e+-]*', '#', sentence)[:110]}"
