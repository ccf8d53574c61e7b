"""Networks as people write them, in all forms, as random ones are; and those that cannot leave."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from all_forms import FORMS, check, images_of, real, trained
from c_programs import differences
from random_programs import Program, Recipe
from torch import nn
from written import (
    CHANNELS,
    CLASSES,
    IN_FRONT,
    LAST,
    REFUSED,
    SIZE,
    SIZES,
    WRITTEN,
    CalledAgain,
    ZerosInFrontOfPool,
)

from qatlab import quant
from qatlab.deploy.c import c_program
from qatlab.deploy.integer import lower, with_rescale
from qatlab.deploy.integer.operations import Convolve
from qatlab.deploy.obstacles import obstacles
from qatlab.deploy.onnx.integer import IntegerWriter
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.errors import ConfigError

SAT = Recipe(channels=CHANNELS, rescale="float")
LSQ_PLUS = Recipe(
    weight=("LsqWeight", {"bits": 4}),
    activation=("LsqPlusActivation", {"bits": 4}),
    channels=CHANNELS,
    normalised=True,
    seed=3,
)
METHODS: Mapping[str, Recipe] = {"sat": SAT, "lsq_plus": LSQ_PLUS}
both = pytest.mark.parametrize("method", METHODS)


@dataclass(frozen=True)
class Written(Program):
    """A program that is a class already."""

    kind: type[nn.Module] = field(kw_only=True)

    def network(self) -> nn.Module:
        return self.kind()


def written(kind: type[nn.Module], method: str) -> Written:
    recipe = replace(METHODS[method], size=SIZES.get(kind, SIZE))
    recipe = replace(recipe, inputs_of_functions=kind in IN_FRONT)
    return Written((), (), recipe, LAST.get(kind, ""), kind=kind)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of paddings by a word
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.__name__)
def test_all_forms_compute_what_training_did(kind: type[nn.Module], tmp_path: Path) -> None:
    outcomes = {method: check(written(kind, method)) for method in METHODS}
    for method, outcome in outcomes.items():
        assert (method, outcome.refused) == (method, {})
        assert outcome.right == ["integers", *FORMS]
        assert outcome.ties < 3
    if shutil.which("cc") is not None:
        assert differences([o.c for o in outcomes.values() if o.c is not None], tmp_path) == []


def test_a_layer_that_is_called_several_times_has_its_weights_once() -> None:
    program = written(CalledAgain, "sat")
    pixels, codes = images_of(program)
    images = real(pixels, codes)
    network = lower(trained(program, images), codes, images[:1])
    shape = (4, 4, 3, 3)
    calls = [
        op for op in network.operations if isinstance(op, Convolve) and op.weight.shape == shape
    ]
    assert len(calls) == 4
    fixed = with_rescale(network, "fixed32")
    for file in (QdqWriter(network, 21).write({}), IntegerWriter(fixed, 21).write({})):
        stored = [tensor for tensor in file.graph.initializer if tuple(tensor.dims) == shape]
        assert len(stored) == 1
    program_in_c = c_program(fixed, [str(i) for i in range(CLASSES)])
    arrays = re.findall(
        r"^static QATLAB_FLASH const \w+ (weights\w*)\[", program_in_c.source, re.MULTILINE
    )
    assert len(arrays) == 5  # stem, block, more, fewer, fc


@both
@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_has_no_form_is_said_before_the_training(kind: type[nn.Module], method: str) -> None:
    layer, words = REFUSED[kind]
    assert_refused(written(kind, method), layer, words)


def test_zeros_around_codes_with_an_offset_are_refused_in_front_of_a_largest_value(
    tmp_path: Path,
) -> None:
    words = r"^max_pool2d: largest values have no integer form .*zeros .* codes with an offset\.$"
    outcome = check(written(ZerosInFrontOfPool, "sat"))
    assert outcome.right == ["integers", *FORMS]
    assert_refused(written(ZerosInFrontOfPool, "lsq_plus"), "max_pool2d", words)


def assert_refused(program: Written, layer: str, words: str) -> None:
    pixels, codes = images_of(program)
    images = real(pixels, codes)
    for model in (untrained(program), trained(program, images)):
        found = obstacles(model, codes, images[:1], tried=())
        assert found.keys() == {"integer", "qdq", "qonnx", "c"}
        for own in (found["integer"], found["c"]):
            assert own[0].layer == layer
            assert re.search(words, own[0].reason), own[0].reason
    with pytest.raises(ConfigError, match=words):
        lower(model, codes, images[:1])


def untrained(program: Written) -> nn.Module:
    """Return the network as a training begins with it."""
    recipe = program.recipe
    weight, activation = (
        partial(getattr(quant, name), **arguments)
        for name, arguments in (recipe.weight, recipe.activation)
    )
    image = torch.zeros(1, recipe.channels, *recipe.size)
    model, _ = quant.quantize(program.network(), weight, activation, [], image)
    quant.set_phase(model, quant.Phase.FLOAT)
    return model
