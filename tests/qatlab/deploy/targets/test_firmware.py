"""Programs on the instruction sets of Cortex-M cores, in QEMU."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, convert
from programs import names
from random_layers import answered, convolutions, random_layers, random_shortcut, site

from qatlab.deploy.c import blocks, c_program
from qatlab.deploy.c.kernels import Kernel
from qatlab.deploy.c.runtime import used
from qatlab.deploy.integer import Codes, IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.integer.operations import Convolve, FixedRescale, Input
from qatlab.deploy.integer.weights import largest_accumulator
from qatlab.deploy.targets import TARGETS, Firmware, missing_for, target_of
from qatlab.errors import ConfigError

CORES = ["cortex-m0plus", "cortex-m4", "cortex-m55"]
takes_qemu = pytest.mark.skipif(
    bool(missing_for()), reason=f"not installed: {', '.join(missing_for())}"
)


def assert_computes_the_same(network: IntegerNetwork, images: torch.Tensor, core: str) -> Firmware:
    program = c_program(network, names(network))
    firmware = Firmware(program.source, program.is_whole, target_of(core))
    found = firmware.outputs(images.numpy().astype(np.uint8)) * 2.0**-network.output.unit
    expected = compute(network, images).outputs.numpy()
    assert (found.view(np.int64) == expected.view(np.int64)).all()
    return firmware


@takes_qemu
@pytest.mark.parametrize(
    "seed", [9, 10, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40))]
)
@pytest.mark.parametrize("core", CORES)
def test_random_layers_answer_as_integers_do(core: str, seed: int) -> None:
    network, images = random_layers(1000 + seed)
    assert_computes_the_same(network, images, core)


@takes_qemu
@pytest.mark.parametrize("core", CORES)
def test_codes_with_a_sign_of_half_a_byte_answer_as_integers_do(core: str) -> None:
    assert_computes_the_same(*random_shortcut(2, 4), core)


@takes_qemu
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("bits", "high"), [(4, 15), (2, 3), (8, 255)])
def test_convolutions_of_many_channels_answer_as_integers_do(
    core: str, bits: int, high: int
) -> None:
    rng = np.random.default_rng(bits)
    image, codes = Input("x", (), Codes(0, 255, 1.0), (16, 6, 5)), Codes(0, high, 1.0)
    weight = rng.integers(-(1 << bits - 1), 1 << bits - 1, (12, 16, 3, 3))
    largest = largest_accumulator(weight, codes, "conv")
    shift = np.array([8 - codes.bits])
    sides = ((1, 1), (1, 1))
    operations = [
        FixedRescale("codes", ("x",), (np.array([1]),), np.array([0]), shift, codes),
        Convolve("conv", ("codes",), weight, (1, 1), sides, (1, 1), 1, largest),
        site("site", "conv", codes, largest, 12, rng),
    ]
    images = torch.randint(0, 256, (3, 16, 6, 5), generator=torch.Generator().manual_seed(1))
    assert_computes_the_same(answered(image, operations, "site"), images, core)


@takes_qemu
@pytest.mark.parametrize(
    ("core", "rescale"),
    [
        *(("cortex-m0plus", "fixed32"), ("cortex-m3", "float"), ("cortex-m4", "fixed32")),
        *(("cortex-m7", "float"), ("cortex-m55", "float")),
    ],
)
def test_a_network_answers_as_integers_do(core: str, rescale: str) -> None:
    torch.manual_seed(2)
    exact = lower(convert(NETWORKS["projected shortcut"](), "sat", 4), [PIXEL] * 3, EXAMPLE)
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    firmware = assert_computes_the_same(with_rescale(exact, rescale), images, core)
    assert firmware.instructions is not None
    # 30,000 products, of which half a core's instruction is the least.
    assert 15_000 < firmware.instructions < 3_000_000
    assert 1500 < firmware.flash < 20_000
    assert firmware.ram < 2000
    assert 50 < firmware.stack < 2000


@takes_qemu
def test_instructions_are_counted() -> None:
    """A loop of two instructions, a thousand times and a million times."""
    source = """\
#include <stdint.h>
#define QATLAB_IMAGE_BYTES 4
#define QATLAB_CLASSES 1
typedef int64_t qatlab_number;
static int32_t qatlab_infer(const uint8_t *image, qatlab_number *outputs)
{
    uint32_t left = image[0] * 1000u * (image[1] == 0 ? 1u : 2000u);
    outputs[0] = left;
    __asm__ volatile(".syntax unified\\n0: subs %0, %0, #1\\n bne 0b" : "+r"(left) :: "cc");
    return 0;
}
"""
    firmware = Firmware(source, True, target_of("cortex-m4"))
    taken = []
    for image in ([1, 0, 0, 0], [200, 1, 0, 0]):
        found = firmware.outputs(np.array([image], np.uint8))
        assert found.tolist() == [[image[0] * (1000 if image[1] == 0 else 2_000_000)]]
        taken.append(firmware.instructions or 0)
    assert 2000 <= taken[0] <= 2200
    # 800 million are 20 million ticks of the counter, which goes round after 16.8 million.
    assert 800_000_000 <= taken[1] <= 800_000_000 + 200


@takes_qemu
def test_what_no_board_holds_is_refused() -> None:
    source = """\
#include <stdint.h>
#define QATLAB_IMAGE_BYTES 1
#define QATLAB_CLASSES 1
typedef int64_t qatlab_number;
static volatile uint8_t memory[5000000];
static int32_t qatlab_infer(const uint8_t *image, qatlab_number *outputs)
{
    memory[image[0]] = 1;
    outputs[0] = 0;
    return 0;
}
"""
    with pytest.raises(ConfigError, match="the board has 4M bytes of flash and of RAM only"):
        Firmware(source, True, target_of("cortex-m4"))
    with pytest.raises(ConfigError, match="no program for cortex-m4"):
        Firmware("int" + source, True, target_of("cortex-m4"))


def test_unknown_cores_and_missing_programs_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        target_of("cortex-m44")
    assert "--target=cortex-m44 is wrong. Did you mean 'cortex-m4'?" in str(caught.value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as caught:
        target_of("cortex-m4")
    told = str(caught.value)
    assert re.match(r"--target cortex-m4 takes arm-none-eabi-gcc and .*: apt-get install ", told)
    assert set(TARGETS) >= set(CORES)


@takes_qemu
@pytest.mark.parametrize(
    ("bits", "channels"),
    [
        ([5, 4], [12, 12, 12]),
        ([5, 4, 1], [12, 12, 12, 12]),
        ([5, 7, 3, 4], [24, 24, 24, 24, 24]),
        ([5, 6, 7, 7, 6, 5], [6, 10, 16, 40, 24, 12, 8]),
    ],
)
def test_weights_are_stored_so_that_the_built_program_is_the_smallest(
    bits: list[int], channels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = convolutions(bits, channels)

    def flash() -> int:
        program = c_program(network, names(network))
        return Firmware(program.source, program.is_whole, target_of("cortex-m4")).flash

    found, others = flash(), []
    for at in (0, -1):  # all in bytes, all in planes
        monkeypatch.setattr(
            blocks, "least", lambda layers, at=at: {own.op.name: own.ways[at] for own in layers}
        )
        others.append(flash())
    assert len(set(others)) == 2
    assert found <= min(others)


@takes_qemu
def test_the_code_of_an_inner_loop_takes_what_it_is_said_to() -> None:
    kernels = [
        Kernel(bits, is_twofold, words, places, 1)
        for bits, is_twofold in (
            (1, True),
            (2, True),
            (4, True),
            (2, False),
            (4, False),
            (8, False),
        )
        for words in (2, 4)
        for places in (1, 2)
    ]
    text = "\n\n".join(own.text() for own in kernels)
    calls = "".join(f"{own.name}(w, x, 64, all, sums);" for own in kernels)
    source = "\n\n".join(
        [
            "#include <stdint.h>\n#define QATLAB_IMAGE_BYTES 1\n#define QATLAB_CLASSES 1",
            "typedef int64_t qatlab_number;",
            *used(text),
            text.replace("static void", "__attribute__((noinline)) static void"),
            "static uint32_t w[256]; static qatlab_pair x[256]; static int32_t all[2], sums[8];",
            f"static int32_t qatlab_infer(const uint8_t *image, qatlab_number *outputs) {{{calls}"
            "outputs[0] = sums[0] + image[0]; return 0; }",
        ]
    )
    built = Firmware(source, True, target_of("cortex-m4")).code
    for own in kernels:
        assert own.size == pytest.approx(built[own.name], rel=0.3), own.name
    assert sum(own.size for own in kernels) == pytest.approx(
        sum(built[own.name] for own in kernels), rel=0.1
    )
