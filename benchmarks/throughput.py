"""Images per second in training at 224x224: float networks and the same ones with SAT at 4 bits.

    python -m benchmarks.throughput [--models mobilenet_v1 mobilenet_v2 resnet18 resnet50]
    [--device cpu] [--batch 16] [--rounds 5] [--threads 2] [--fast]

One step is forward, cross entropy, backward and SGD with momentum. The float network, SAT's clamp
phase and its quantize phase take a step each in turn, in one process; a ratio is the median over
rounds of the time of a step to that of the float network in the same round, on a CPU the time of
the process. Images per second are those of the median step, by the clock. Peak is the most memory
alive in a step, weights and optimizer included, as torch counts it.

``--fast`` does as ``trainer=gpu``: bfloat16, NHWC, compiled, the float network likewise.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step_cost import Memory
from qatlab import models, quant

MODELS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1": partial(models.MobileNetV1, 1000, 3),
    "mobilenet_v2": partial(models.MobileNetV2, 1000, 3),
    "resnet18": partial(models.ResNet, 1000, 3, 18),
    "resnet50": partial(models.ResNet, 1000, 3, 50),
}
FLOAT, CLAMP, QUANTIZE = "float", "clamp", "quantize"
SIDE = 224
MEGA = 1e6


class Candidate:
    """A network that is trained on one batch of random images.

    Args:
        network: float network; it is copied.
        phase: what it is trained in: float, clamp or quantize.
        images: ``(N, 3, H, W)``, on the device.
        fast: bfloat16, NHWC, compiled.
    """

    def __init__(self, network: nn.Module, phase: str, images: Tensor, fast: bool) -> None:
        model = copy.deepcopy(network)
        if phase != FLOAT:
            weight, activation = quant.SatWeight, quant.SatActivation
            last = quant.Rule.parse("scaling", {"normed": False, "weight": {"scaling": True}})
            factories = partial(weight, bits=4), partial(activation, bits=4)
            model, _ = quant.quantize(model, *factories, (last,), torch.zeros(1, 3, SIDE, SIDE))
        model = model.to(images.device)
        if fast:
            model.to(memory_format=torch.channels_last)
        if phase == QUANTIZE:
            quant.start_quantizers(model, [images])
        elif phase == CLAMP:
            quant.set_phase(model, quant.Phase.CLAMP)
        self.images = images
        self.labels = torch.randint(0, 1000, (len(images),), device=images.device)
        self.optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9)
        self.model = torch.compile(model, dynamic=False) if fast else model
        self.fast = fast

    def step(self) -> None:
        """Take one step."""
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.fast):
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def timed(self) -> tuple[float, float]:
        """Take one step and return its seconds for ratios, and by the clock."""
        on_gpu = self.images.is_cuda
        begin, cpu = time.perf_counter(), time.process_time()
        self.step()
        if on_gpu:
            torch.cuda.synchronize()
        wall = time.perf_counter() - begin
        return (wall if on_gpu else time.process_time() - cpu), wall

    def peak(self) -> float | None:
        """Return the most megabytes alive in a step; None where a CPU cannot tell."""
        if self.images.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() / MEGA
        if self.fast:
            return None  # buffers of compiled code are not made by single operations
        with Memory() as counted:
            self.step()
        own = [*self.model.parameters(), *self.model.buffers(), self.images]
        own += [x for s in self.optimizer.state.values() for x in s.values() if x is not None]
        return (counted.peak + sum(x.numel() * x.element_size() for x in own)) / MEGA


def measure(name: str, images: Tensor, fast: bool, rounds: int) -> list[list[str]]:
    """Return the rows of a network: one of each phase."""
    torch.manual_seed(0)
    network = MODELS[name]()
    seconds: dict[str, list[tuple[float, float]]] = {}
    peaks: dict[str, float | None] = {}
    on_gpu = images.is_cuda
    # On a GPU one at a time, as only so memory can be told; nothing else disturbs there.
    phases = [[FLOAT], [CLAMP], [QUANTIZE]] if on_gpu else [[FLOAT, CLAMP, QUANTIZE]]
    for together in phases:
        candidates = {phase: Candidate(network, phase, images, fast) for phase in together}
        for phase, candidate in candidates.items():
            for _ in range(3 if fast else 1):
                candidate.step()
            peaks[phase] = candidate.peak()
        for _ in range(rounds):
            for phase, candidate in candidates.items():
                seconds.setdefault(phase, []).append(candidate.timed())
        del candidates, candidate
        torch.cuda.empty_cache()
    rows = []
    for phase in (FLOAT, CLAMP, QUANTIZE):
        ratios = [a / b for (a, _), (b, _) in zip(seconds[phase], seconds[FLOAT], strict=True)]
        wall = statistics.median(wall for _, wall in seconds[phase])
        peak = peaks[phase]
        rows.append(
            [
                *(name, "float" if phase == FLOAT else f"SAT 4/4, {phase}"),
                *(f"{len(images) / wall:,.1f}", f"{statistics.median(ratios):.2f}"),
                "" if peak is None else f"{peak:,.0f}",
            ]
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="16 on a CPU, 256 on a GPU by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="bfloat16, NHWC, compiled")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    on_gpu = arguments.device != "cpu"
    batch = arguments.batch or (256 if on_gpu else 16)
    where = torch.cuda.get_device_name() if on_gpu else f"{arguments.threads} threads"
    print(
        f"torch {torch.__version__}, {platform.machine()}, {where}, batch {batch}, "
        f"{'bfloat16, NHWC, compiled' if arguments.fast else 'float32, eager'}, "
        f"{arguments.rounds} rounds\n\n"
        "| network | phase | images/s | time of a step to float | peak MB |\n|---|---|---|---|---|"
    )
    images = torch.randn(batch, 3, SIDE, SIDE, device=arguments.device)
    for name in arguments.models:
        for row in measure(name, images, arguments.fast, arguments.rounds):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
