"""What a training step of fake quantization costs, as a multiple of the same float network's.

    python -m benchmarks.step_cost [--models resnet20 efficientnet_b0 ...] [--methods lsq sat]
    [--modes keep recompute compact compiled] [--bits 4] [--pairs 15]
    [--peers] [--nhwc] [--bf16]

One step is forward, cross entropy, backward and SGD with momentum. The float network and a
candidate step in turn, A B B A, in one process; a figure is the median over pairs of the ratio of
the process's CPU time, so that other work on the machine counts as little as possible. All layers
have 4-bit weights, all sites 4-bit activations, the signed ones too. ``compiled`` is compared with
the compiled float network, and with the eager one.

Kept is the memory that is alive between forward and backward and was not before it; peak is the
highest during a step; both are counted by the tensors' storages, as multiples of float.
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models import (
    densenet121,
    efficientnet_b0,
    mobilenet_v2,
    mobilenet_v3_large,
    regnet_x_400mf,
    resnet18,
    shufflenet_v2_x1_0,
    vgg11_bn,
)
from torchvision.models.resnet import BasicBlock

from benchmarks.peers import PEERS
from qatlab import quant

METHODS: dict[str, tuple[Any, Any]] = {
    "lsq": (quant.LsqWeight, quant.LsqActivation),
    "sat": (quant.SatWeight, quant.SatActivation),
}


def resnet20(num_classes: int) -> nn.Module:
    """Return ResNet-20 of He et al. 2015, section 4.2, with projections in its shortcuts."""

    def stage(channels: int, width: int, stride: int) -> nn.Sequential:
        shortcut = None
        if stride > 1:
            shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        first = BasicBlock(channels, width, stride, shortcut)
        return nn.Sequential(first, BasicBlock(width, width), BasicBlock(width, width))

    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    stages = (stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
    return nn.Sequential(*stem, *stages, *head)


COMPILED = "compiled"
MODES = [*quant.MODES, COMPILED]
# Network, batch, side of the images.
MODELS: dict[str, tuple[Callable[..., nn.Module], int, int]] = {
    "resnet20": (resnet20, 64, 32),
    "mobilenet_v2": (mobilenet_v2, 16, 96),
    "resnet18": (resnet18, 16, 96),
    "efficientnet_b0": (efficientnet_b0, 16, 96),
    "mobilenet_v3_large": (mobilenet_v3_large, 16, 96),
    "regnet_x_400mf": (regnet_x_400mf, 16, 96),
    "shufflenet_v2_x1_0": (shufflenet_v2_x1_0, 16, 96),
    "densenet121": (densenet121, 8, 64),
    "vgg11_bn": (vgg11_bn, 8, 64),
}


class Candidate:
    """A network with its optimizer, a batch, and how to compute it."""

    bf16 = False  # whether steps are taken under autocast

    def __init__(self, model: nn.Module, images: Tensor, mode: str | None = None) -> None:
        self.model = torch.compile(model.train(), dynamic=False) if mode == COMPILED else model
        self.compiled = mode == COMPILED
        self.images = images
        self.labels = torch.randint(0, 10, (len(images),))
        self.optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9)
        self.memory = quant.Memory(mode) if mode in quant.MODES else nullcontext()

    def loss(self) -> Tensor:
        """Return the loss of the batch."""
        with self.memory, torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return F.cross_entropy(self.model(self.images), self.labels)

    def step(self) -> float:
        """Take one step and return its CPU seconds."""
        begin = time.process_time()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - begin


class Memory(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returned."""
        result = func(*args, **(kwargs or {}))
        old = {
            id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor, old)
        return result

    def _count(self, tensor: Tensor, old: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known or tensor.device.type == "meta" or id(storage) in old:
            return
        self.known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def memory(candidate: Candidate) -> tuple[int, int]:
    """Return the bytes kept for backward, and the most alive during a step."""
    candidate.step()
    gc.collect()
    with Memory() as counted:
        loss = candidate.loss()
        gc.collect()
        kept = counted.live
        loss.backward()
        candidate.optimizer.step()
    candidate.optimizer.zero_grad()
    return kept, counted.peak


def quantized(model: nn.Module, method: str, images: Tensor, bits: int = 4) -> nn.Module:
    """Return the network with quantizers that have started."""
    weight, activation = METHODS[method]
    factories = partial(weight, bits=bits), partial(activation, bits=bits)
    converted, _ = quant.quantize(model, *factories, (), images[:1])
    quant.start_quantizers(converted, [images])
    return converted


def ratios(floor: Candidate, other: Candidate, pairs: int) -> list[float]:
    """Return other / floor of each pair."""
    for candidate in (floor, other, floor, other):
        candidate.step()
    found = []
    for number in range(pairs):
        order = (floor, other) if number % 2 else (other, floor)
        times = {candidate: candidate.step() for candidate in order}
        found.append(times[other] / times[floor])
    return found


def main() -> None:
    """Print the table."""

    def row(
        words: tuple[str, ...],
        candidate: Candidate,
        floor_memory: tuple[int, int],
        floors: tuple[Candidate, ...],
    ) -> None:
        cells = [*words]
        if candidate.compiled:  # its buffers are not made by single operations
            cells += ["", ""]
        else:
            cells += [f"{a / b:.2f}" for a, b in zip(memory(candidate), floor_memory, strict=True)]
        for floor in floors:
            found = ratios(floor, candidate, arguments.pairs)
            low, middle, high = statistics.quantiles(found, n=4)
            cells += [f"**{middle:.2f}**", f"{low:.2f} to {high:.2f}"]
        cells += ["", ""] * (2 - len(floors))
        print(f"| {' | '.join(cells)} |", flush=True)

    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--bits", type=int, default=4, help="of weights and activations")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--peers", action="store_true", help="those installed, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--nhwc", action="store_true", help="networks and images as channels_last")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    arguments = parser.parse_args()
    Candidate.bf16 = arguments.bf16
    layout = torch.channels_last if arguments.nhwc else torch.contiguous_format
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}, "
        f"{arguments.pairs} pairs, {arguments.bits} bits\n\n"
        "| model | method | mode | kept | peak | CPU ratio to float | quartiles "
        "| to compiled float | quartiles |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in arguments.models:
        make, batch, side = MODELS[name]
        torch.manual_seed(0)
        images = torch.randn(batch, 3, side, side).contiguous(memory_format=layout)
        network = make(num_classes=10).to(memory_format=layout)  # type: ignore[call-overload]
        floor = Candidate(copy.deepcopy(network), images)
        floor_memory = memory(floor)
        for peer, convert in PEERS.items() if arguments.peers else ():
            converted = convert(copy.deepcopy(network))
            if converted is not None:
                row((name, peer, "eager"), Candidate(converted, images), floor_memory, (floor,))
        for mode in arguments.modes:
            floors = (floor,)
            if mode == COMPILED:
                floors = (floor, Candidate(copy.deepcopy(network), images, mode))
            for method in arguments.methods:
                converted = quantized(copy.deepcopy(network), method, images, arguments.bits)
                other = Candidate(converted, images, mode)
                row((name, method, mode), other, floor_memory, floors)


if __name__ == "__main__":
    main()
