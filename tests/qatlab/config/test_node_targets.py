"""What is passed to a user's own network, and how its refusals read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from qatlab import config
from qatlab.config.targets import make
from qatlab.errors import ConfigError
from qatlab.models import LeNet
from qatlab.run.build import Built, build

OFFERED = {"num_classes": 10, "in_channels": 1}


class Net(nn.Module):
    def __init__(self, num_classes, width=16):  # type: ignore[no-untyped-def]
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.relu(self.norm(self.conv(x))).mean((2, 3)))


class Both(Net):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, width=in_channels + 1)


class Neither(Net):
    def __init__(self, outputs=10):  # type: ignore[no-untyped-def]
        super().__init__(outputs)


class HandsOn(Net):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class HandsOnWithItsOwn(nn.Sequential):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(LeNet(in_channels=1, **kwargs))


class Spare(Net):
    """With a module that its forward never calls."""

    def __init__(self, num_classes):  # type: ignore[no-untyped-def]
        super().__init__(num_classes, 4)
        self.spare = nn.Linear(3, 3)


def returning(change: Any) -> type[Net]:
    class Returning(Net):
        def forward(self, x: Tensor) -> Any:
            return change(super().forward(x))

    return Returning


Dictionary = returning(lambda y: {"logits": y, "features": y})
WithDictionary = returning(lambda y: (y, {"logits": y}))
WithNone = returning(lambda y: (y, None))
Nothing = returning(lambda y: None)
Squeezed = returning(lambda y: y.squeeze())
Mean = returning(lambda y: y.mean())
Several = returning(lambda y: [y, y])


def node(name: str, **arguments: Any) -> Any:
    return OmegaConf.create({"_target_": f"{__name__}.{name}", **arguments})


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [
        ("Net", {}, 16),
        ("Net", {"width": 8}, 8),
        ("Both", {}, 2),
        ("Neither", {}, 16),
        ("HandsOn", {"width": 4}, 4),
    ],
)
def test_a_network_gets_what_it_accepts(name: str, arguments: Any, width: int) -> None:
    model = make("model", node(name, **arguments), nn.Module, OFFERED)
    assert model.fc.weight.shape == (10, width)


def test_what_a_class_hands_on_is_offered_once_more_without_what_is_refused() -> None:
    model = make("model", node("HandsOnWithItsOwn"), nn.Module, OFFERED)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_what_comes_from_the_data_is_not_given() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_classes is set by qatlab itself; leave it"):
        make("model", node("Net", num_classes=3), nn.Module, OFFERED)


def test_an_argument_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.num_classes has no value; give"):
        make("model", node("Net"), nn.Module)


# ---- from the configuration


@pytest.fixture
def built(root: Path) -> Iterator[Any]:
    config.register()

    def run(name: str, *words: str, **arguments: Any) -> Built:
        with initialize_config_dir(str(root / "conf"), version_base="1.3"):
            cfg = compose("config", ["data=synthetic", "trainer=smoke", "folder=run", *words])
        with open_dict(cfg):
            cfg.model = node(name, **arguments)
        return build(cfg)

    yield run
    GlobalHydra.instance().clear()
    torch.use_deterministic_algorithms(False)


def test_a_class_without_annotations_is_a_network(built: Any) -> None:
    assert built("Net", width=8).table.parameters == 8 * 9 + 2 * 8 + 8 * 10 + 10


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Dictionary", "returns a dictionary of 'logits', 'features'; let its forward return a"),
        ("WithDictionary", "returns a tuple whose item 1 is a dictionary of 'logits'; let"),
        ("WithNone", "returns a tuple whose item 1 is None; let"),
        ("Nothing", "returns None; let"),
        ("Squeezed", "returns a tensor of shape (10,) for 1 image; let"),
        ("Mean", "returns a tensor of shape () for 1 image; let"),
        ("Several", "loss is for 1 output, and the network has 2; loss=several"),
    ],
)
@pytest.mark.parametrize("quant", ["none", "sat_4bit"])
def test_what_no_loss_can_take_is_reported_before_the_training(
    name: str, words: str, quant: str, built: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        built(name, f"quant={quant}")
    assert words in str(caught.value)


def test_a_class_without_num_classes_is_checked_against_the_data(built: Any) -> None:
    with pytest.raises(ConfigError, match="the network has 5 outputs and the data 10 classes"):
        built("Neither", outputs=5)
    assert built("Neither").model is not None


@pytest.mark.parametrize("quant", ["none", "sat_4bit"])
def test_weights_of_a_module_that_is_never_called_fit(
    quant: str, built: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.pt"
    weights = Spare(10).state_dict()
    torch.save(weights, file)
    model = built("Spare", f"quant={quant}", f"init_weights={file}").model
    assert torch.equal(model.get_parameter("conv.weight"), weights["conv.weight"])
    told = capsys.readouterr().out
    assert ("2 values left out, of modules that the network never calls" in told) == (
        quant != "none"
    )
    torch.save({k: v for k, v in weights.items() if "spare" not in k}, file)
    built("Spare", f"quant={quant}", f"init_weights={file}")
