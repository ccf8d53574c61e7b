"""What a program in C says and takes: its command line, its sizes, its names."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import EXAMPLE, NETWORKS, PIXEL, convert
from programs import WARNINGS, assert_computes_the_same, build, run

from qatlab.deploy.c import CProgram, c_program
from qatlab.deploy.integer import Codes, IntegerNetwork, lower, with_rescale
from qatlab.deploy.integer.operations import (
    NO_SIDES,
    Convolve,
    FixedOutput,
    FixedRescale,
    Input,
    Multiply,
)

NAMES = ['a "b"', "back\\slash", "what??/", "Grün", "two\nlines"]
ABOUT = ["run of /* today */", "what??/", "a line\nanother \\", "naïve \u202e"]


@dataclass(frozen=True)
class Built:
    program: CProgram
    network: IntegerNetwork
    path: Path
    images: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("program")
    exact = lower(convert(NETWORKS["projected shortcut"](), "sat", 4), [PIXEL] * 3, EXAMPLE)
    network = with_rescale(exact, "fixed32")
    program = c_program(network, NAMES, ABOUT)
    (folder / "three").write_bytes(np.random.default_rng(0).bytes(3 * 192))
    return Built(program, network, build(program.source, folder), folder / "three")


def test_each_image_is_a_line(built: Built) -> None:
    done = run(built.path, built.images)
    lines = re.findall(r"^(\d)\t(.*(?:\nlines)?)\n", done.stdout, flags=re.MULTILINE)
    assert [name for _, name in lines] == [NAMES[int(i)] for i, _ in lines]
    assert len(lines) == 3
    outputs = run(built.path, built.images, "--outputs").stdout
    assert outputs.count("\t") == 3 * (1 + len(NAMES))


def test_benchmarks_run_over_the_first_image(built: Built) -> None:
    done = run(built.path, "--bench", "20", built.images)
    told = re.fullmatch(r"(\d+\.\d{3}) microseconds for each image, .*\n(lines\n)?", done.stdout)
    assert told
    assert 1 < float(told[1]) < 20_000  # 30,000 products, with sanitizers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "usage: .*"),
        (["{images}", "{images}"], "usage: .*"),
        (["--output", "{images}"], "usage: .*"),
        (["{images}", "--bench"], "usage: .*"),
        (["--bench", "0", "{images}"], "0: --bench takes a whole number, 1 to 1000000000."),
        (["--bench", "5x", "{images}"], "5x: --bench takes a whole number, 1 to 1000000000."),
        (["nothing here"], "nothing here cannot be read."),
        (["{folder}"], ".* (cannot be read|holds .*)."),
        (["{short}"], ".*short holds 200 bytes, where each image takes 192."),
        (["{empty}"], ".*empty holds 0 bytes, where each image takes 192."),
    ],
)
def test_mistakes_are_reported_in_one_line(built: Built, words: list[str], told: str) -> None:
    folder = built.images.parent
    (folder / "short").write_bytes(bytes(200))
    (folder / "empty").write_bytes(b"")
    files = {"images": built.images, "folder": folder}
    files |= {name: folder / name for name in ("short", "empty")}
    done = run(built.path, *(word.format(**files) for word in words))
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(f"{told}\n", done.stderr)


def test_images_may_come_from_a_pipe(built: Built) -> None:
    content = built.images.read_bytes()
    done = [
        subprocess.run([built.path, "/dev/stdin"], input=content[:size], capture_output=True)
        for size in (384, 200)
    ]
    assert [one.returncode for one in done] == [0, 1]
    assert done[1].stderr == b"/dev/stdin ends within an image.\n"


def test_sizes_are_those_of_the_object(built: Built, tmp_path: Path) -> None:
    if shutil.which("size") is None:
        pytest.skip("there is no program that tells the sizes of objects: size")
    (tmp_path / "network.c").write_text(built.program.source)
    # Without main, the standard library is not needed at all.
    source = built.program.source.partition("#ifndef QATLAB_NO_MAIN")[0]
    # Which are left out here:
    of_arm = ["#include <arm_acle.h>", "#include <string.h>", "#include <arm_mve.h>"]
    others = [*of_arm, "#include <emmintrin.h>"]
    assert re.findall("#include.*", source) == ["#include <stdint.h>", *others]
    flags = [*WARNINGS, "-O0", "-DQATLAB_NO_MAIN", "-fno-asynchronous-unwind-tables", "-c"]
    subprocess.run(["cc", *flags, "network.c"], cwd=tmp_path, check=True)
    told = subprocess.run(["size", "-A", "network.o"], cwd=tmp_path, capture_output=True, text=True)
    sections = dict(re.findall(r"^(\.\w+)\s+(\d+)", told.stdout, flags=re.MULTILINE))
    n_arrays = source.count("static QATLAB_FLASH const")
    aligned = 32 * n_arrays  # each array may begin at a round address
    assert built.program.flash <= int(sections[".rodata"]) <= built.program.flash + aligned
    memory = built.program.ram - 192  # the image is that of main
    assert memory <= int(sections[".bss"]) <= memory + 64
    assert int(sections[".data"]) == 0


def test_layers_tell_bits_and_products(built: Built) -> None:
    rows = {row.name: row for row in built.program.layers}
    assert sum(row.flash for row in rows.values()) == built.program.flash
    assert rows["stem"].what == "convolution 3x3, weights of 4 bits"
    assert rows["stem"].flash == 4 * 32 / 2  # 27 taps, filled up; two weights in each byte
    assert rows["stem"].multiply_accumulates == 4 * 3 * 9 * 36
    assert rows["fc"].what == "fully connected, weights of 4 bits"
    assert rows["fc"].multiply_accumulates == 5 * 8
    assert rows["stem_relu"].what == "codes of 4 bits"
    assert rows["pool"].multiply_accumulates == 0
    weights = sum(
        op.weight.size for op in built.network.operations if isinstance(op, (Convolve, Multiply))
    )
    stored = sum(rows[name].flash for name in rows if "weights" in rows[name].what)
    assert weights / 2 <= stored <= weights / 2 * 1.3


def test_layers_that_several_sites_read_are_computed_for_each(tmp_path: Path) -> None:
    weight, one, zero = np.ones((2, 1, 1, 1), dtype=np.int64), np.array([1]), np.array([0])
    codes = Codes(0, 255, 1.0)
    network = IntegerNetwork(
        [
            Input("x", (), codes, (1, 1, 1)),
            Convolve("conv", ("x",), weight, (1, 1), NO_SIDES, (1, 1), 1, 255),
            FixedRescale("first", ("conv",), (one,), zero, zero, codes),
            FixedOutput("output", ("first", "conv"), (one, one), zero, zero),
        ]
    )
    program = c_program(network, ["a", "b"])
    assert_computes_the_same(network, torch.tensor([3, 255]).reshape(2, 1, 1, 1), tmp_path)
    assert program.layers[0].multiply_accumulates == 4
    assert program.source.count("int32_t sum_conv(") == 1
