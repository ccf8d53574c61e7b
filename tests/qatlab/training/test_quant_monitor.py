from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn

from qatlab.data import ImageData
from qatlab.data.synthetic import Synthetic
from qatlab.errors import ConfigError
from qatlab.errors.arguments import check_arguments
from qatlab.quant import (
    LsqActivation,
    LsqPlusActivation,
    LsqWeight,
    PactActivation,
    Phase,
    Quantizer,
    SatActivation,
    SatWeight,
    quantize,
    set_phase,
    start_quantizers,
)
from qatlab.quant.grid import Grid, cg_pact_grid, lsq_grid
from qatlab.training import quant_monitor
from qatlab.training.classifier import Classifier
from qatlab.training.csv_logger import CsvLogger, read_rows
from qatlab.training.data_module import DataModule
from qatlab.training.forward import TrainingForward
from qatlab.training.loss import CrossEntropy
from qatlab.training.lr_policy import cosine
from qatlab.training.phase_schedule import PhaseSchedule
from qatlab.training.quant_monitor import QuantMonitor, measure
from qatlab.training.schedule import Schedule, Span
from qatlab.training.solver import GROUP_SETTINGS, GROUPS, Solver


@pytest.mark.parametrize(
    ("parameter", "grid", "offset", "expected"),
    [
        (1.0, lsq_grid(3, signed=False), None, 2 / 8),  # 0..3: the 3.5 and the 5 are above
        (-1.0, lsq_grid(3, signed=False), None, 2 / 8),  # the sign is ignored
        (1.0, lsq_grid(3, signed=True), None, 4 / 8),  # -2..1: 1.5, 3, 3.5 and 5 are above
        (1.0, lsq_grid(3, signed=False), 1.0, 4 / 8),  # 1..4: below are 0, 0.5, 0.9, above 5
        (3.0, cg_pact_grid(3, signed=False), None, 2 / 8),  # alpha itself is not clipped
        (0.0, cg_pact_grid(3, signed=False), None, 7 / 8),  # all but 0
    ],
)
def test_values_beyond_the_ends_of_the_grid_are_clipped(
    parameter: float, grid: Grid, offset: float | None, expected: float
) -> None:
    values = torch.tensor([0.0, 0.5, 0.9, 1.0, 1.5, 3.0, 3.5, 5.0])
    shift = None if offset is None else torch.tensor(offset)
    assert grid.clipped_share(values, torch.tensor(parameter), shift).item() == expected


def test_each_channel_is_clipped_by_its_own_step() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.5, 0.0], [1.0, -3.0, 0.5, 0.0]])
    step = torch.tensor([[1.0], [2.0]])  # the grids -2..1 and -4..2
    assert lsq_grid(3, signed=True).clipped_share(weight, step).item() == 1 / 8


class Net(nn.Module):
    """Convolution, batch norm and activation function, then a fully-connected layer."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * 8 * 8, 2)  # computed last
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(2, eps=2.0**-30)  # vanishes beside the variances below
        self.act = act
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        outputs: Tensor = self.fc(self.dropout(x.flatten(1)))
        return outputs


def convert(
    weight: Callable[..., Quantizer], activation: Callable[..., Quantizer], act: nn.Module
) -> nn.Module:
    """Return a network in the quantize phase whose norm turns (x, 2x) into (x, 4x - 4)."""
    net = Net(act)
    with torch.no_grad():
        net.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        net.bn.running_mean.copy_(torch.tensor([1.0, 8.0]))
        net.bn.running_var.copy_(torch.tensor([4.0, 0.25]))
        net.bn.weight.copy_(torch.tensor([2.0, 1.0]))
        net.bn.bias.copy_(torch.tensor([1.0, 12.0]))
    model, _ = quantize(net, weight, activation, [], IMAGES)
    start_quantizers(model, [IMAGES])
    return model


IMAGES = torch.arange(4.0).repeat(16).view(1, 1, 8, 8)  # after the norm: 0, 1, 2, 3, -4, 0, 4, 8
FINE = partial(LsqWeight, bits=16, step_size=2.0**-13)  # leaves the convolution as it is


@pytest.mark.parametrize(
    ("activation", "act", "site", "absorbed", "expected"),
    [
        (partial(SatActivation, alpha=2.5), nn.ReLU(), "act", True, 3 / 8),
        (partial(PactActivation, alpha=3.0), nn.ReLU(), "act", True, 2 / 8),
        (partial(SatActivation, alpha=7.0), nn.ReLU6(), "act", True, 1 / 8),  # stands for it
        (partial(SatActivation, alpha=2.5), nn.Identity(), "bn_site", True, 4 / 8),  # signed
        (partial(LsqActivation, step_size=1.0), nn.ReLU(), "act", True, 2 / 8),  # up to 3
        # Cut to -2.5 and 2.5 before the grid, which reaches from -2 to 1.
        (partial(LsqActivation, step_size=1.0), nn.Hardtanh(-2.5, 2.5), "act", False, 5 / 8),
    ],
)
def test_a_site_is_measured_on_what_enters_its_grid(
    activation: Callable[..., Quantizer], act: nn.Module, site: str, absorbed: bool, expected: float
) -> None:
    model = convert(FINE, partial(activation, bits=2), act)
    quantizer: Any = model.get_submodule(site)
    assert bool(quantizer._norm) == absorbed
    values = measure(model, IMAGES)
    assert values[f"quant/{site}/{quantizer.learned}"] == quantizer.parameter.item()
    assert values[f"quant/{site}/clipped"] == expected


def test_the_offset_of_lsq_plus_moves_its_range() -> None:
    model = convert(FINE, partial(LsqPlusActivation, bits=2, step_size=1.0), nn.ReLU())
    quantizer: Any = model.get_submodule("act")
    with torch.no_grad():
        quantizer.offset.fill_(0.5)  # to 0.5 .. 3.5; of the values behind the ReLU, 3 are 0
    values = measure(model, IMAGES)
    assert values["quant/act/offset"] == 0.5
    assert values["quant/act/clipped"] == 5 / 8


def test_weight_layers_are_measured_by_their_learned_step() -> None:
    weight = partial(LsqWeight, bits=2, per_channel=True, step_size=1.0)
    model = convert(weight, partial(SatActivation, bits=2, alpha=1.0), nn.ReLU())
    conv: Any = model.get_submodule("conv")
    with torch.no_grad():
        conv.weight_quantizer.step_size.copy_(torch.tensor([1.0, -0.5]).view(2, 1, 1, 1))
    values = measure(model, IMAGES)
    assert values["quant/conv/step_size"] == 0.75
    assert values["quant/conv/clipped"] == 1 / 2  # of the weights 1 and 2 the second, beyond 0.5
    assert list(values) == [  # in the order of computation
        f"quant/{name}"
        for name in (
            *("conv/step_size", "conv/clipped", "act/alpha", "act/clipped"),
            *("fc/step_size", "fc/clipped"),
        )
    ]


def test_weights_without_a_learned_step_are_left_out() -> None:
    model = convert(partial(SatWeight, bits=4), partial(SatActivation, bits=4), nn.ReLU())
    assert list(measure(model, IMAGES)) == ["quant/act/alpha", "quant/act/clipped"]


@pytest.mark.parametrize("phase", [Phase.FLOAT, Phase.CLAMP])
def test_there_is_nothing_to_measure_in_other_phases(phase: Phase) -> None:
    model = convert(FINE, partial(SatActivation, bits=4), nn.ReLU())
    set_phase(model, phase)
    assert measure(model, IMAGES) == {}


def test_a_measurement_leaves_nothing_behind() -> None:
    model = convert(FINE, partial(SatActivation, bits=4), nn.ReLU()).train()
    model.get_submodule("bn").eval()  # a frozen one
    before = {name: value.clone() for name, value in model.named_buffers()}
    measure(model, IMAGES)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert [name for name, m in model.named_modules() if not m.training] == ["bn"]
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name])


def test_it_has_no_options() -> None:
    with pytest.raises(
        ConfigError, match=r"^callbacks\.monitor\.images .* Accepted .*: nothing\.$"
    ):
        check_arguments("callbacks.monitor", QuantMonitor, {"images": 3})


class AtSave(Checkpoint):
    """Notes what stands in ``metrics.csv`` when the checkpoint of an epoch is saved."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(trainer.logger, CsvLogger)
        self.rows.append(read_rows(Path(trainer.logger.log_dir) / "metrics.csv")[-1])


def train(folder: Path, *monitors: Callback) -> tuple[Trainer, list[dict[str, str]]]:
    """Train for a float and two quantized epochs of 7 + 3 images."""
    seed_everything(1, verbose=False)
    source = Synthetic(12, 2, num_classes=2, channels=1, size=(8, 8), noise=50.0, seed=1)
    model, _ = quantize(
        Net(nn.ReLU()), partial(LsqWeight, bits=4), partial(LsqActivation, bits=4), [], IMAGES
    )
    schedule = Schedule((Span(Phase.FLOAT, 1), Span(Phase.QUANTIZE, 2)))
    groups = dict.fromkeys(GROUPS, dict.fromkeys(GROUP_SETTINGS))
    solver = Solver(partial(torch.optim.SGD, lr=0.1), cosine, 0, 1.0, groups)
    at_save = AtSave()
    trainer = Trainer(
        max_epochs=3,
        logger=CsvLogger(str(folder)),
        callbacks=[PhaseSchedule(schedule, 1), *monitors, at_save],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = Classifier(
        model, solver, [CrossEntropy()], schedule.position, 2, TrainingForward(False, "keep")
    )
    data = ImageData(source, (8, 8), 7, 2, 2, 0, 0, 0, random_flip=True)
    trainer.fit(module, datamodule=DataModule(data))
    return trainer, at_save.rows


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, dict[str, float]]]:
    """The images and values of all measurements."""
    calls: list[tuple[Tensor, dict[str, float]]] = []

    def spy(model: nn.Module, images: Tensor) -> dict[str, float]:
        calls.append((images, measure(model, images)))
        return calls[-1][1]

    monkeypatch.setattr(quant_monitor, "measure", spy)
    return calls


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging
def test_the_training_is_the_same_without_a_monitor(tmp_path: Path) -> None:
    results = []
    for folder, monitors in ((tmp_path / "a", [QuantMonitor()]), (tmp_path / "b", [])):
        trainer, rows = train(folder, *monitors)
        own = [{k: v for k, v in row.items() if not k.startswith("quant/")} for row in rows]
        weights = trainer.lightning_module.state_dict()
        numbers = {k: v.tolist() for k, v in weights.items() if isinstance(v, Tensor)}
        results.append((own, numbers, torch.get_rng_state().tolist()))
        assert not any("quant" in name for name in trainer.callback_metrics)  # those of the bar
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore")
def test_the_values_of_an_epoch_stand_in_its_row_when_it_is_saved(
    tmp_path: Path, measured: list[tuple[Tensor, dict[str, float]]]
) -> None:
    _, rows = train(tmp_path, QuantMonitor())
    assert [len(images) for images, _ in measured] == [3, 3, 3]  # the last batches
    assert [row["phase"] for row in rows] == ["float", "quantize", "quantize"]
    for row, (_, values) in zip(rows, measured, strict=True):
        assert {k: float(v) for k, v in row.items() if k.startswith("quant/") and v} == values
        assert row["train/loss"]
    assert len(measured[2][1]) == 6
    assert measured[1][1] != measured[2][1]
    assert list(rows[2])[-6:] == list(measured[2][1])  # behind the columns of the run itself


@pytest.mark.filterwarnings("ignore")
def test_at_most_so_many_images_are_looked_at(
    tmp_path: Path,
    measured: list[tuple[Tensor, dict[str, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quant_monitor, "IMAGES", 2)
    train(tmp_path, QuantMonitor())
    assert [len(images) for images, _ in measured] == [2, 2, 2]
