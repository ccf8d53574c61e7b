"""Each architecture with each method, trained for some steps on MNIST, in all its forms."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import functional as F

from qatlab import config
from qatlab.build import Built, build
from qatlab.export.onnx_file import onnx_file
from qatlab.integer import lower, with_rescale
from qatlab.loading import Loaded
from qatlab.pixels import bytes_of, pixel_codes
from qatlab.quant import Phase, set_phase
from qatlab.verify.__main__ import compare
from qatlab.verify.forms import AsIntegers, FakeQuantized, InOnnxruntime

ROOT = Path(__file__).parents[2]
NETWORKS = {
    "lenet": ["model=lenet"],
    "resnet20": ["model=resnet20", "model.width=8"],
    "mobilenet_v2": ["model=mobilenet_v2", "model.width=0.25", "model.halvings=3"],
    "resnet18": ["model=resnet18", "model.width=8", "model.halvings=3"],
}
METHODS = {
    "SAT 8/8": ["quant=sat_8bit"],
    "SAT 4/4": ["quant=sat_4bit"],
    "SAT 1/4": ["quant=sat_4bit", "quant.weight.bits=1"],
    "LSQ 4/4": ["quant=lsq_4bit"],
    "LSQ 2/2": ["quant=lsq_2bit"],
    "LSQ+ 4/4": ["quant=lsq_plus_4bit"],
}
TRAINED, BATCH = 192, 16  # images
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
    images, labels = batches(own)
    for step in range(steps):
        part = torch.arange(BATCH * step, BATCH * (step + 1)) % TRAINED
        optimizer.zero_grad()
        F.cross_entropy(own.model(images[part]), labels[part]).backward()
        optimizer.step()


@cache
def mnist(part: str) -> tuple[Tensor, Tensor]:
    own = built("model=lenet", "quant=none")
    own.data.setup(part)
    loader: Any = own.data.test_dataloader() if part == "test" else own.data.train_dataloader()
    found = [], []
    for images, labels in loader:
        found[0].append(images)
        found[1].append(labels)
        if sum(map(len, found[0])) >= TRAINED:
            break
    return torch.cat(found[0])[:TRAINED], torch.cat(found[1])[:TRAINED]


def batches(own: Built) -> tuple[Tensor, Tensor]:
    return mnist("fit")


@cache
def float_weights(network: str) -> dict[str, Tensor]:
    own = built(*NETWORKS[network], "quant=none")
    train(own, Phase.FLOAT, 12)
    return own.model.state_dict()


def shown() -> Iterator[tuple[Tensor, Tensor]]:
    images, labels = mnist("test")
    yield images[:TESTED], labels[:TESTED]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_all_forms_of_a_trained_network_answer_the_same(network: str, method: str) -> None:
    own = built(*NETWORKS[network], *METHODS[method])
    missing = own.model.load_state_dict(float_weights(network), strict=False)
    assert not missing.unexpected_keys
    train(own, Phase.QUANTIZE, 6)
    model, codes = own.model.eval(), pixel_codes(own.data)
    exact = lower(model, codes, own.data.example_input())
    fixed = with_rescale(exact, "fixed32")
    loaded = Loaded(own, "", f"{network}, {method}")
    files = {kind: onnx_file(loaded, kind) for kind in ("qdq", "integer")}
    forms = [
        AsIntegers(fixed, "fixed32", tolerance=5e-4),
        *(InOnnxruntime(files["qdq"], "qdq", exact, way, 0.0) for way in (False, True)),
        *(InOnnxruntime(files["integer"], "integer", fixed, way, 5e-4) for way in (False, True)),
    ]
    found = compare(FakeQuantized(model), AsIntegers(exact, "float", 0.0), forms, shown(), codes)
    assert [own.name for own in found if not own.passes] == []
    for own_found in found:
        for name, site in own_found.sites.items():
            assert site.from_tie < 1e-3, (own_found.name, name)
    assert found[1].sites.keys() == found[3].sites.keys() == found[5].sites.keys()
    images, _ = next(shown())
    pixels = bytes_of(images, codes)
    twin = forms[0](images, pixels)
    for form in forms[3:]:
        same = form.look_inside(images, pixels)
        assert torch.equal(same.outputs, twin.outputs)
        assert all(torch.equal(same.codes[site].float(), twin.codes[site]) for site in twin.codes)
    types = {tensor.data_type for tensor in files["qdq"].graph.initializer}
    narrow = onnx.TensorProto.INT4
    assert (narrow in types) == (method != "SAT 8/8")
