"""What a run on ImageNet takes, computed from the network: time, memory and decoding.

    python -m benchmarks.imagenet [--bandwidth 3.35] [--compute 990] [--gigabytes 80]
    [--images-per-core 300]

For each network, one image of 224x224 is followed through it with SAT's quantizers at 4 bits:

- multiplications: of all convolutions and linear layers, hooked; a step needs three times as many.
- values: outputs of all convolutions, that is what batch norms and quantizers read.
- kept: bytes alive between forward and backward, measured on the CPU in float32 as the difference
  between two batch sizes; bfloat16 is taken as half of it.

A GPU step is bound by memory traffic or by arithmetic, whichever takes longer. Traffic: 38 bytes of
each value in bfloat16, 12 for a convolution (reads and writes of both directions) and 26 for batch
norm and the quantizer in place of a ReLU. The time is that of 60 % of the GPU's bandwidth and 40 %
of its arithmetic. It is a floor: starting kernels and waiting for data come on top.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step_cost import Memory
from benchmarks.throughput import MODELS, SIDE
from qatlab import quant

IMAGES = 1_281_167
BYTES_PER_VALUE = 38  # moved, in bfloat16
OF_BANDWIDTH, OF_COMPUTE = 0.6, 0.4
EPOCHS = {
    "mobilenet_v1": 300,
    "mobilenet_v2": 300,
    "resnet18": 90,
    "resnet50": 90,
}  # of the recipes


def quantized(name: str) -> nn.Module:
    """Return the network with SAT's quantizers, which have started."""
    factories = partial(quant.SatWeight, bits=4), partial(quant.SatActivation, bits=4)
    example = torch.randn(1, 3, SIDE, SIDE)
    model, _ = quant.quantize(MODELS[name](), *factories, (), example)
    quant.start_quantizers(model, [torch.randn(2, 3, SIDE, SIDE)])
    return model.train()


def work(model: nn.Module) -> tuple[int, int]:
    """Return multiplications, and outputs of convolutions, for one image."""
    found = [0, 0]

    def note(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        found[0] += output.numel() * layer.weight[0].numel()
        if isinstance(layer, nn.Conv2d):
            found[1] += output.numel()

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.randn(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    model.train()
    return found[0], found[1]


def kept(model: nn.Module) -> float:
    """Return the bytes kept for the backward pass for each image."""
    sizes = []
    for batch in (2, 4):
        with Memory() as counted:
            outputs = model(torch.randn(batch, 3, SIDE, SIDE))
            sizes.append(counted.live)
        del outputs
    return (sizes[1] - sizes[0]) / 2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bandwidth", type=float, default=3.35, help="of the GPU, TB/s")
    parser.add_argument(
        "--compute", type=float, default=990, help="of the GPU, Tflop/s in bfloat16"
    )
    parser.add_argument("--gigabytes", type=float, default=80, help="memory of the GPU")
    parser.add_argument("--images-per-core", type=float, default=300, help="decoded in a second")
    given = parser.parse_args()
    print(
        f"a GPU of {given.bandwidth} TB/s, {given.compute:g} Tflop/s, {given.gigabytes:g} GB; "
        f"{given.images_per_core:g} images/s decoded by a core\n\n"
        "| network | 10^6 multiplications | 10^6 values | kept MB/image, bf16 | largest batch "
        "| images/s | bound by | epochs | hours, 1 GPU | 8 GPUs | cores to decode for 1 GPU |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in MODELS:
        model = quantized(name)
        multiplications, values = work(model)
        megabytes = kept(model) / 2e6
        traffic = values * BYTES_PER_VALUE / (given.bandwidth * 1e12 * OF_BANDWIDTH)
        arithmetic = 6 * multiplications / (given.compute * 1e12 * OF_COMPUTE)
        speed = 1 / max(traffic, arithmetic)
        hours = IMAGES * EPOCHS[name] / speed / 3600
        # Half of the memory is left to the backward pass, workspaces and fragmentation.
        batch = int(given.gigabytes * 1e3 / 2 / megabytes)
        cells = [
            *(name, f"{multiplications / 1e6:,.0f}", f"{values / 1e6:.1f}", f"{megabytes:.1f}"),
            *(f"{batch:,}", f"{speed:,.0f}", "traffic" if traffic > arithmetic else "arithmetic"),
            *(str(EPOCHS[name]), f"{hours:.0f}", f"{hours / 8:.1f}"),
            f"{speed / given.images_per_core:.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
