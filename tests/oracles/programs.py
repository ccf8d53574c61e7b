"""Compiles programs in C and runs them, for the tests of :mod:`qatlab.deploy.c`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qatlab.deploy.c import c_program
from qatlab.deploy.integer import IntegerNetwork, compute

WARNINGS = (
    *("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wconversion", "-Wshadow"),
    *("-Wcast-qual", "-Wmissing-prototypes", "-Wstrict-prototypes"),
)
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build(source: str, folder: Path, *flags: str) -> Path:
    """Compile a program, without a single warning; skip the test where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: cc")
    (folder / "network.c").write_text(source)
    command = ["cc", *WARNINGS, *(flags or SANITIZED), "network.c", "-o", "network"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "network"


def run(program: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], capture_output=True, text=True)


def answers(program: Path, images: Tensor) -> tuple[list[int], np.ndarray]:
    """Return classes and outputs of images, ``(N, C, H, W)``."""
    file = program.with_name("images")
    file.write_bytes(images.to(torch.uint8).numpy().tobytes())
    done = run(program, "--outputs", file)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert all(row[1] == f"class {row[0]}" for row in rows)
    return [int(row[0]) for row in rows], np.array(
        [[float(word) for word in row[2:]] for row in rows]
    )


def names(network: IntegerNetwork) -> list[str]:
    output = network.operations[-1].name
    return [f"class {i}" for i in range(int(np.prod(network.shapes[output])))]


def assert_computes_the_same(
    network: IntegerNetwork,
    images: Tensor,
    folder: Path,
    flags: Sequence[str] = (),
    layout: str = "chw",
) -> None:
    """Compare a program with the integer network that it is made of, to the last bit."""
    program = build(c_program(network, names(network), layout=layout).source, folder, *flags)
    given = images if layout == "chw" else images.permute(0, 2, 3, 1).contiguous()
    classes, found = answers(program, given)
    expected = compute(network, images).outputs.numpy()
    assert found.shape == expected.shape
    assert (found.view(np.int64) == expected.view(np.int64)).all()  # 0.0 is not -0.0
    assert classes == expected.argmax(1).tolist()
    assert len(np.unique(expected)) > 1
