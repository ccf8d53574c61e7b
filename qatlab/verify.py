"""Whether a run answers the same as integers: ``python -m qatlab.verify outputs/runs/<run>``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from rich.table import Table
from torch import Tensor, nn

from qatlab import record
from qatlab.errors import ConfigError
from qatlab.integer import IntegerNetwork, compute, lower
from qatlab.integer.network import Codes
from qatlab.loading import load_run
from qatlab.messages import sentence
from qatlab.quant import hold_weights, release_weights
from qatlab.quant.learned import ActivationQuantizer
from qatlab.terminal import wide_console

PIXEL = Codes(0, 255, 1 / 255)  # of the images of a data set
AT_ONCE = 100  # images: their tensors then stay in the processor's caches


@dataclass
class Site:
    """How far the codes of a site agree.

    Attributes:
        codes: how many were compared.
        different: how many of them are others.
        first: how many of these are in images that agree at all sites before this one.
        from_tie: the largest distance of those first ones from the middle between two levels, in
            steps: what float32 and exact arithmetic round differently is a tie but for its errors.
    """

    codes: int = 0
    different: int = 0
    first: int = 0
    from_tie: float = 0.0


@dataclass
class Comparison:
    """What the fake-quantized network and the integer network answer on a set of images.

    Attributes:
        images: how many.
        top1: share of right answers of each.
        different: how many images get another class.
        largest: difference of two outputs.
        mean: difference of outputs.
        sites: by name, in the order of computation.
        accumulator_bits: width that the accumulators of each layer need.
    """

    images: int = 0
    top1: dict[str, float] = field(default_factory=lambda: {"fake": 0.0, "integer": 0.0})
    different: int = 0
    largest: float = 0.0
    mean: float = 0.0
    sites: dict[str, Site] = field(default_factory=dict)
    accumulator_bits: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def compare(model: nn.Module, network: IntegerNetwork, data: LightningDataModule) -> Comparison:
    """Compare both networks on the test images.

    Raises:
        ConfigError: if the images are not multiples of 1 / 255.
    """
    found = Comparison(accumulator_bits=network.accumulator_bits)
    hold_weights(model)
    codes_of: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(_keep(name, module, codes_of))
        for name, module in model.named_modules()
        if isinstance(module, ActivationQuantizer)
    ]
    right, total, count = {"fake": 0, "integer": 0}, 0.0, 0
    for images, labels in data.test_dataloader():
        pixels = (images.double() / PIXEL.step).round()
        if (pixels * PIXEL.step - images).abs().max() > 1e-6:
            raise ConfigError(
                "the images that the network gets are not whole multiples of 1/255, as behind a "
                "transform that normalises; an integer network takes bytes."
            )
        for first in range(0, len(images), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            outputs, computed = model(images[part]), compute(network, pixels[part])
            answers = {"fake": outputs.argmax(1), "integer": computed.outputs.argmax(1)}
            for name, answer in answers.items():
                right[name] += int((answer == labels[part]).sum())
            found.images += len(computed.outputs)
            found.different += int((answers["fake"] != answers["integer"]).sum())
            apart = (outputs - computed.outputs).abs()
            found.largest = max(found.largest, apart.max().item())
            total, count = total + apart.sum().item(), count + apart.numel()
            agree = torch.ones(len(computed.outputs), dtype=torch.bool)
            for name, codes in computed.codes.items():
                site = found.sites.setdefault(name, Site())
                other = codes_of[name] != codes
                agree &= _compare_site(site, other, computed.positions[name], agree)
    release_weights(model)
    for hook in hooks:
        hook.remove()
    found.top1 = {name: number / found.images for name, number in right.items()}
    found.mean = total / count
    return found


def _keep(name: str, quantizer: ActivationQuantizer, codes_of: dict[str, Tensor]) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        step = quantizer.parameter.abs().double() / quantizer.grid.divisor
        codes_of[name] = (output.double() / step).round()

    return hook


def _compare_site(site: Site, other: Tensor, position: Tensor, agree: Tensor) -> Tensor:
    """Count what is other at a site; return which images are all the same there."""
    site.codes += other.numel()
    site.different += int(other.sum())
    first = position[agree][other[agree]]
    if len(first):
        site.first += len(first)
        apart = (first - first.floor() - 0.5).abs()
        site.from_tie = max(site.from_tie, apart.max().item())
    return ~other.flatten(1).any(1)


def _print(found: Comparison) -> None:
    table = Table("site", "codes", "different", "first in their image", "from a tie (steps)")
    for name, site in found.sites.items():
        counts = (f"{number:,}" for number in (site.codes, site.different, site.first))
        table.add_row(name, *counts, f"{site.from_tie:.1e}" if site.first else "")
    wide_console().print(table)
    widest = max(found.accumulator_bits.values())
    print(
        f"{found.images:,} test images: top-1 {found.top1['fake']:.2%} fake-quantized, "
        f"{found.top1['integer']:.2%} as integers; {found.different} get another class; outputs "
        f"differ by {found.largest:.1e} at most, {found.mean:.1e} in the mean; accumulators need "
        f"{widest} bits."
    )


def main(words: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m qatlab.verify", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file of the run's")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args(words)
    try:
        built = load_run(given.run, given.checkpoint)
        model = built.model.eval()
        network = lower(model, [PIXEL] * built.data.in_channels, built.data.example_input())
        built.data.setup("test")
        found = compare(model, network, built.data)
        _print(found)
        if given.json is not None:
            record.write_json(given.json, asdict(found))
    except Exception as error:
        if (told := sentence(error)) is None:
            raise
        print(f"Error: {told}", file=sys.stderr)
        return 1
    return 0 if found.different == 0 else 2


if __name__ == "__main__":
    sys.exit(main())
