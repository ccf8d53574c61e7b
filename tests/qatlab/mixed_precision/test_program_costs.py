"""What programs are said to take, against programs that are written, built and run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from candidate_networks import BATCH, Projected, Twice, candidates_of, images, residual

from qatlab.deploy.integer import Codes, compute
from qatlab.deploy.integer.operations import Convolve
from qatlab.deploy.targets import TARGETS, Firmware, missing_for
from qatlab.mixed_precision import ProgramCosts, Programs, Tensor
from qatlab.mixed_precision.candidates import Candidates

BYTES = [Codes(0, 255, 1 / 255, 0.0)] * BATCH[1]
CLASSES = ("a", "b", "c")
CORE = "cortex-m4"
cores = pytest.mark.skipif(bool(missing_for()), reason=f"not installed: {', '.join(missing_for())}")


def programs(target: str | None, convolved: bool = False) -> Programs:
    candidates, _ = residual([2, 4, 8], [2, 4, 8], convolved=convolved)
    core = None if target is None else TARGETS[target]
    return Programs(candidates, BYTES, torch.zeros(1, *BATCH[1:]), CLASSES, core)


def assignments(candidates: Candidates, count: int) -> list[dict[Tensor, int]]:
    draw = random.Random(5)
    widths = candidates.choices.widths
    return [{tensor: draw.choice(own) for tensor, own in widths.items()} for _ in range(count)]


@cores
def test_flash_memory_and_instructions_are_near_those_of_the_built_program() -> None:
    written = programs(CORE)
    costs = ProgramCosts(written, steps=True)
    errors = []
    for own in assignments(written.candidates, 6):
        figures = written.sample(own).figures
        assert figures.instructions is not None
        assert costs.flash.of(own) == pytest.approx(figures.flash, abs=300)  # of code
        assert costs.ram.of(own) == pytest.approx(figures.ram, abs=100)  # the stack differs
        errors.append(abs(costs.instructions.of(own) / figures.instructions - 1))
    assert sum(errors) / len(errors) < 0.03
    assert max(errors) < 0.1


@cores
def test_what_was_built_is_said_to_take_what_it_took() -> None:
    written = programs(CORE)
    costs = ProgramCosts(written, steps=True)
    own = dict.fromkeys(written.candidates.choices.widths, 4)
    figures = written.sample(own).figures
    assert costs.flash.of(own) == pytest.approx(figures.flash, rel=0.015)
    assert costs.instructions.of(own) == pytest.approx(figures.instructions, rel=0.02)


@cores
def test_steps_add_up_to_the_instructions_of_an_image() -> None:
    written = programs(CORE)
    own = dict.fromkeys(written.candidates.choices.widths, 4)
    sample = written.sample(own, steps=True)
    assert sample.firmware is not None
    assert len(sample.firmware.steps) == len(sample.program.calls)
    assert all(sample.firmware.steps)
    assert sum(sample.firmware.steps) == pytest.approx(sample.firmware.instructions, rel=0.01)


@cores
@pytest.mark.parametrize(("addend", "result"), [(4, 8), (8, 4), (2, 8), (8, 8)])
def test_what_is_added_up_may_be_stored_in_another_way_than_the_sum(
    addend: int, result: int
) -> None:
    """A sum of codes of half a byte whose own codes take a byte, and the other way round."""
    written = programs(None)
    own = dict.fromkeys(written.candidates.choices.widths, 4)
    own |= {Tensor("activation", "relu1"): addend, Tensor("activation", "relu2"): result}
    network, program = written.written(own)
    assert "norm_site" not in program.calls  # made where it is added
    pixels = (images(4) * 255).round().to(torch.uint8)
    expected = compute(network, pixels).outputs
    for core in (CORE, "cortex-m55"):
        found = Firmware(program.source, program.is_whole, TARGETS[core])
        outputs = torch.from_numpy(found.outputs(pixels.numpy().astype(np.uint8)))
        assert torch.equal(outputs.double() * 2.0**-network.output.unit, expected)


@cores
def test_a_layer_that_is_called_twice_counts_twice() -> None:
    candidates, _ = candidates_of(Twice, [2, 8], [8])
    written = Programs(candidates, BYTES, torch.zeros(1, *BATCH[1:]), CLASSES, TARGETS[CORE])
    costs = ProgramCosts(written, steps=True)
    for bits in (2, 8):
        own = {t: bits if t.part == "weight" else 8 for t in candidates.choices.widths}
        figures = written.sample(own).figures
        assert costs.instructions.of(own) == pytest.approx(figures.instructions, rel=0.005)
        assert costs.flash.of(own) == pytest.approx(figures.flash, abs=150)


def test_without_a_core_constants_and_memory_are_those_of_the_exporter() -> None:
    written = programs(None)
    costs = ProgramCosts(written)
    for own in assignments(written.candidates, 6):
        _, program = written.written(own)
        assert costs.flash.of(own) == pytest.approx(program.flash, abs=4)
        assert costs.ram.of(own) == pytest.approx(program.ram - program.image_bytes, abs=64)


def test_memory_at_each_operation_is_that_of_the_program() -> None:
    written = programs(None, convolved=True)
    costs = ProgramCosts(written)
    for bits in (4, 8):
        own = dict.fromkeys(written.candidates.choices.widths, bits)
        _, program = written.written(own)
        assert program.in_place  # or nothing is written over another tensor
        for moment in costs.ram.sums:
            assert moment.of(own) == pytest.approx(program.needed[moment.name], abs=64)


def test_memory_knows_that_codes_with_a_sign_lie_two_to_a_byte() -> None:
    candidates, _ = candidates_of(Projected, [4], [3, 4, 5, 8])
    written = Programs(candidates, BYTES, torch.zeros(1, *BATCH[1:]), CLASSES, None)
    costs = ProgramCosts(written)
    site, taken = Tensor("activation", "shortcut_site"), []
    for bits in (3, 4, 5, 8):
        own = {t: 4 for t in candidates.choices.widths} | {site: bits}
        _, program = written.written(own)
        # The sum lies where its addend does if both take half a byte, or both take one.
        assert program.in_place == ({"relu2": "shortcut_site"} if bits <= 4 else {})
        assert costs.ram.of(own) == pytest.approx(program.ram - program.image_bytes, abs=4)
        taken.append(costs.ram.of(own))
    assert taken[0] == taken[1] < taken[2] == taken[3]


def test_weights_that_fill_their_grids_are_stored_at_their_whole_width() -> None:
    candidates, _ = residual([2, 4, 8], [8], fill=True)
    written = Programs(candidates, BYTES, torch.zeros(1, *BATCH[1:]), CLASSES, None)
    for bits in (2, 4, 8):
        own = {t: bits if t.part == "weight" else 8 for t in candidates.choices.widths}
        network, _ = written.written(own)
        for op in network.of(Convolve):
            low, high = op.weight.min(), op.weight.max()
            assert (low, high) == (-(1 << bits - 1), (1 << bits - 1) - 1)
