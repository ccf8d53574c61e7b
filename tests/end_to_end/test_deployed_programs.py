"""C programs of trained networks on the test set of MNIST; on all of it with ``-m slow``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed import trained

from qatlab.deploy.c import c_program
from qatlab.deploy.integer import compute, lower, with_rescale
from qatlab.deploy.pixels import bytes_of, pixel_codes

SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize(
    ("method", "rescale", "flags", "count"),
    [
        ("SAT 4/4", "fixed32", ("-O2",), 2000),
        ("LSQ+ 4/4", "float", ("-O2",), 2000),
        pytest.param("SAT 4/4", "fixed32", ("-O2",), 10_000, marks=pytest.mark.slow),
        pytest.param("LSQ+ 4/4", "float", ("-O2",), 10_000, marks=pytest.mark.slow),
        ("SAT 4/4", "fixed32", SANITIZERS, 500),
        pytest.param("SAT 4/4", "fixed32", SANITIZERS, 10_000, marks=pytest.mark.slow),
        pytest.param("LSQ+ 4/4", "float", SANITIZERS, 10_000, marks=pytest.mark.slow),
    ],
)
def test_a_program_answers_as_the_integer_network_does(
    tmp_path: Path, method: str, rescale: str, flags: tuple[str, ...], count: int
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: cc")
    own = trained("lenet", method)
    codes = pixel_codes(own.data)
    network = with_rescale(lower(own.model, codes, own.data.example_input()), rescale)
    (tmp_path / "model.c").write_text(c_program(network, own.data.class_names).source)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", *flags, "model.c", "-o", "model"]
    subprocess.run(command, cwd=tmp_path, check=True)
    own.data.setup("test")
    batches = [(bytes_of(images, codes), labels) for images, labels in own.data.test_dataloader()]
    pixels = torch.cat([images for images, _ in batches])[:count]
    labels = torch.cat([labels for _, labels in batches])[:count]
    (tmp_path / "images.raw").write_bytes(pixels.numpy().tobytes())
    done = subprocess.run(
        ["./model", "images.raw"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = np.array([int(line.split("\t")[0]) for line in done.stdout.splitlines()])
    parts = [compute(network, part).outputs.argmax(1) for part in pixels.split(200)]
    assert len(found) == count
    assert np.array_equal(found, torch.cat(parts).numpy())
    assert (found == labels.numpy()).mean() > 0.6  # it has learned something, on any processor
