"""How long a search of bits takes: the losses of ResNet-20 beside a training epoch; fronts.

    python -m benchmarks.bit_search [--images 512]

One thread. Steps of a training, at 4 bits in batches of 64, are timed before and behind the losses;
an epoch has as many as 50,000 images. Weights and images are random, which costs as much.
"""

from __future__ import annotations

import argparse
import time

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor as Numbers
from torch.nn import functional as F

from benchmarks.microcontrollers import ROOT, SIZES
from qatlab import config
from qatlab.mixed_precision import (
    TABLE_COSTS,
    Candidates,
    Choices,
    Limit,
    Tensor,
    best,
    measured,
)
from qatlab.quant import start_quantizers
from qatlab.run.build import Built, build

WIDTHS = [2, 3, 4, 5, 6, 8]
BATCH, STEPS, EPOCH, POINTS = 64, 10, 50_000, 20


def built(bits: int) -> Built:
    """Return ResNet-20 with one width."""
    words = ["quant=lsq_4bit", f"quant.weight.bits={bits}", f"quant.activation.bits={bits}"]
    words += ["~quant.rules.first", "~quant.rules.last", "data=synthetic", "folder=unused"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return build(compose("config", [*SIZES["resnet20"], *words, "name=benchmark"]))


def loss(outputs: Numbers, images: Numbers, labels: Numbers) -> Numbers:
    """Return the cross entropy of each image."""
    return F.cross_entropy(outputs, labels, reduction="none")


def epoch(images: Numbers, labels: Numbers) -> float:
    """Return the seconds of an epoch, from a few steps."""
    model = built(4).model.train()
    start_quantizers(model, [images])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(-2, STEPS):
        if step == 0:
            begun = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (time.perf_counter() - begun) / STEPS * EPOCH / BATCH


def main() -> None:
    """Print what was timed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    count = parser.parse_args().images
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config.register()
    networks = {bits: built(bits) for bits in WIDTHS}
    table = networks[max(WIDTHS)].table
    choices = Choices({Tensor(row.part, row.name): WIDTHS for row in table.layers})
    images, labels = torch.rand(count, 3, 32, 32), torch.randint(0, 10, (count,))
    first = images[:BATCH], labels[:BATCH]
    models = {bits: own.model for bits, own in networks.items()}
    candidates = Candidates(models, choices, [first[0]], start="mse")
    before = epoch(*first)
    begun = time.perf_counter()
    pairs = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    found = measured(candidates, list(pairs), loss)
    seconds = time.perf_counter() - begun
    of_epoch = (before + epoch(*first)) / 2
    print(
        f"losses of {len(found.losses)} widths of {len(choices.widths)} tensors on {count} images: "
        f"{seconds:.1f} s; an epoch: {of_epoch:.1f} s; ratio {seconds / of_epoch:.2f}"
    )
    for name, make in TABLE_COSTS.items():
        cost = make(choices, table)
        low, high = (cost.of(dict.fromkeys(choices.widths, own)) for own in (2, 8))
        begun = time.perf_counter()
        for i in range(POINTS):
            most = low + (high - low) * i / (POINTS - 1)
            best(choices, found.losses, [Limit(cost, most)])
        print(f"front of {POINTS} budgets of {name}: {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
