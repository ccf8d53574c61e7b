"""Networks that are trained for some steps on MNIST, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import functional as F

from qatlab import config
from qatlab.quant import Phase, set_phase
from qatlab.run.build import Built, build

ROOT = Path(__file__).parents[2]
SMALL = "data.image_size=[16,16]"
NETWORKS = {
    "lenet": ["model=lenet"],
    "resnet20": ["model=resnet20", "model.width=8", SMALL],
    "mobilenet_v2": ["model=mobilenet_v2", "model.width=0.25", "model.halvings=3", SMALL],
    "resnet18": ["model=resnet18", "model.width=8", "model.halvings=3", SMALL],
}
STEPS = {"lenet": (100, 40)}  # in float, and quantized; of the others:
FEW = (12, 6)
METHODS = {
    "SAT 8/8": ["quant=sat_8bit"],
    "SAT 4/4": ["quant=sat_4bit"],
    "SAT 1/4": ["quant=sat_4bit", "quant.weight.bits=1"],
    "LSQ 4/4": ["quant=lsq_4bit"],
    "LSQ 2/2": ["quant=lsq_2bit"],
    "LSQ+ 4/4": ["quant=lsq_plus_4bit"],
}
TRAINED, BATCH = 1600, 16  # images
TESTED = 24


def built(*words: str) -> Built:
    config.register()
    data = [f"data.source.folder={ROOT / 'data'}", f"data.batch_size={BATCH}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*data, "folder=.", "name=test", *words])
    return build(cfg)


def train(own: Built, phase: Phase, steps: int) -> None:
    set_phase(own.model, phase)
    own.model.train()
    optimizer = torch.optim.SGD(own.model.parameters(), lr=0.02, momentum=0.9)
    images, labels = mnist("fit", own.data.image_size)
    for step in range(steps):
        part = torch.arange(BATCH * step, BATCH * (step + 1)) % TRAINED
        optimizer.zero_grad()
        F.cross_entropy(own.model(images[part]), labels[part]).backward()
        optimizer.step()


@cache
def mnist(part: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return images and labels."""
    height, width = size
    own = built("model=resnet20", "quant=none", f"data.image_size=[{height},{width}]")
    own.data.setup(part)
    loader: Any = own.data.test_dataloader() if part == "test" else own.data.train_dataloader()
    found = [], []
    for images, labels in loader:
        found[0].append(images)
        found[1].append(labels)
        if sum(map(len, found[0])) >= TRAINED:
            break
    return torch.cat(found[0])[:TRAINED], torch.cat(found[1])[:TRAINED]


@cache
def float_weights(network: str) -> dict[str, Tensor]:
    own = built(*NETWORKS[network], "quant=none")
    train(own, Phase.FLOAT, STEPS.get(network, FEW)[0])
    return own.model.state_dict()


@cache
def trained(network: str, method: str) -> Built:
    """Return a network that was trained in float, and then with quantizers, for some steps."""
    own = built(*NETWORKS[network], *METHODS[method])
    missing = own.model.load_state_dict(float_weights(network), strict=False)
    assert not missing.unexpected_keys
    train(own, Phase.QUANTIZE, STEPS.get(network, FEW)[1])
    own.model.eval()
    return own


def shown(own: Built) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield test images and their labels."""
    images, labels = mnist("test", own.data.image_size)
    yield images[:TESTED], labels[:TESTED]
