"""All that needs a GPU to be known, in one call of a few minutes, as one table.

    python -m benchmarks.gpu [--device cpu] [--small]

- The fused kernels against their definitions: outputs have to be equal, gradients near.
- Steps of ResNet-50 and MobileNet-V2 as ``trainer=gpu`` computes them (bfloat16, NHWC, compiled):
  time as a multiple of the float network's, images per second, and the most memory alive.
- A short training by ``train.py``, and the same killed and resumed: the weights have to be equal.

``--small`` takes few images and short trainings, with which it is tried on a CPU. It ends with 1 if
a check fails; times and memory are no checks.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.throughput import SIDE, measure
from qatlab.quant.dispatch import fake_quantize_fused
from qatlab.quant.grid import fake_quantize, lsq_grid, pact_grid

ROOT = Path(__file__).parents[1]
NEAR = 1e-3  # of the largest gradient: sums of many numbers in another order, in their type
Row = tuple[str, str, bool | None]  # what, what was found, and whether it is right


def kernels(device: str, elements: int) -> Iterator[Row]:
    """Compare kernels with their definitions, over grids, types and bits."""
    generator = torch.Generator().manual_seed(0)
    types = (torch.float32, torch.bfloat16)
    grids = {"LSQ, signed": (lsq_grid, True), "PACT, unsigned": (pact_grid, False)}
    for (name, (grid_of, signed)), kind in product(grids.items(), types):
        apart = gradients = 0.0
        for bits in (2, 4, 8):
            x = torch.randn(elements, generator=generator).to(device, kind)
            size = torch.tensor(0.7, device=device)
            found, expected = (
                _with_gradients(function, x, size, grid_of(2**bits - 1, signed))
                for function in (fake_quantize_fused, fake_quantize)
            )
            apart = max(apart, (found[0] - expected[0]).abs().max().item())
            for own, other in zip(found[1:], expected[1:], strict=True):
                gradients = max(gradients, _relative(own, other))
        what = f"kernels, {name}, {str(kind).removeprefix('torch.')}, 2, 4 and 8 bits"
        told = f"outputs differ by {apart:.0e} at most, gradients by {gradients:.0e}"
        yield what, told, apart == 0 and gradients < NEAR


def _with_gradients(
    function: object, x: Tensor, size: Tensor, grid: object
) -> tuple[Tensor, Tensor, Tensor]:
    assert callable(function)
    x, size = x.clone().requires_grad_(), size.clone().requires_grad_()
    result = function(x, size, grid, 0.1)
    result.float().square().sum().backward()
    assert x.grad is not None
    assert size.grad is not None
    return result.detach().float(), x.grad.float(), size.grad.float()


def _relative(own: Tensor, other: Tensor) -> float:
    return ((own - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()


def steps(device: str, batch: int, rounds: int, names: list[str], fast: bool) -> Iterator[Row]:
    """Time steps, and count memory."""
    images = torch.randn(batch, 3, SIDE, SIDE, device=device)
    for name in names:
        for _, phase, speed, ratio, peak in measure(name, images, fast, rounds):
            memory = f", {peak} MB at most" if peak else ""
            yield f"{name}, {phase}", f"{ratio} of float, {speed} images/s{memory}", None


def training(device: str, images: int, epochs: int) -> Iterator[Row]:
    """Train twice by the command, once killed and resumed, and compare."""
    words = [
        *("model=resnet20", "data=synthetic", "data.source.channels=3", "quant=lsq_4bit", "seed=1"),
        *(f"data.source.training_images={images}", f"data.validation={images // 10}"),
        *("data.source.test_images=500", "schedule.float_epochs=1"),
        *(f"schedule.quantize_epochs={epochs}", "trainer.deterministic=true"),
    ]
    words += ["trainer=gpu"] if device == "cuda" else ["trainer.accelerator=cpu"]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        begin = time.perf_counter()
        told = _train(*words, f"hydra.run.dir={whole}")
        seconds = time.perf_counter() - begin
        accuracy = told.partition("Final recognition rate: ")[2].partition(" ")[0]
        yield f"training of {1 + epochs} epochs", f"{accuracy} in {seconds:.0f} s", None
        _train(*words, f"hydra.run.dir={killed}", kill=True)
        _train(f"resume={killed}")
        same = (whole / "weights.safetensors").read_bytes()
        equal = same == (killed / "weights.safetensors").read_bytes()
        yield "killed and resumed", f"weights are {'equal' if equal else 'OTHERS'}", equal


def _train(*words: str, kill: bool = False) -> str:
    """Run ``train.py``; kill it after the first epoch, if asked."""
    command = [sys.executable, str(ROOT / "train.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        told = ""
        for line in process.stdout:
            told += line
            if kill and line.startswith("epoch 1/"):
                process.send_signal(signal.SIGKILL)
        process.wait()
    if process.returncode and not kill:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return told


def main() -> int:
    """Print the table; return 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="as a CPU can")
    given = parser.parse_args()
    small, device = given.small, given.device
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {where}\n\n| what | found | right |\n|---|---|---|")
    parts = [
        kernels(device, 10_000 if small else 10_000_000),
        training(device, 500 if small else 10_000, 1 if small else 4),
        steps(
            *(device, 2 if small else 256, 1 if small else 10),
            *(["mobilenet_v2"] if small else ["resnet50", "mobilenet_v2"], not small),
        ),
    ]
    failed = False
    for what, found, right in (row for part in parts for row in part):
        failed |= right is False
        word = "" if right is None else "yes" if right else "NO"
        print(f"| {what} | {found} | {word} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
