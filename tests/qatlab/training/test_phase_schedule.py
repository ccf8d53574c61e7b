"""The phases of a run, and what happens where they meet."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qatlab.errors import ConfigError
from qatlab.quant import (
    DorefaWeight,
    LsqActivation,
    LsqWeight,
    PactActivation,
    Phase,
    SatActivation,
    SatWeight,
)
from qatlab.quant.layers import QuantLinear
from qatlab.training.data_module import DataModule
from qatlab.training.phase_schedule import PhaseSchedule
from qatlab.training.schedule import Schedule, Span


def epochs(float_: int = 0, clamp: int = 0, quantize: int = 0) -> dict[Phase, int]:
    return {Phase.FLOAT: float_, Phase.CLAMP: clamp, Phase.QUANTIZE: quantize}


SAT = nn.Sequential(SatWeight(bits=4), SatActivation(nn.ReLU(), bits=4))
LSQ = nn.Sequential(LsqWeight(bits=4), LsqActivation(nn.ReLU(), bits=4))


# ---- the schedule


def test_phases_follow_each_other_and_those_of_no_epochs_are_left_out() -> None:
    both = (Span(Phase.FLOAT, 2), Span(Phase.QUANTIZE, 3))
    assert Schedule.of(epochs(2, 0, 3), LSQ).phases == both
    all_three = (Span(Phase.FLOAT, 1), Span(Phase.CLAMP, 2), Span(Phase.QUANTIZE, 3))
    assert Schedule.of(epochs(1, 2, 3), SAT).phases == all_three
    assert Schedule.of(epochs(quantize=3), LSQ).phases == (Span(Phase.QUANTIZE, 3),)


def test_each_epoch_has_its_phase_and_its_position_in_it() -> None:
    schedule = Schedule.of(epochs(2, 1, 3), SAT)
    assert schedule.epochs == 6
    phases = [schedule.at(epoch).phase for epoch in range(6)]
    assert phases == [Phase.FLOAT] * 2 + [Phase.CLAMP] + [Phase.QUANTIZE] * 3
    assert [epoch for epoch in range(6) if schedule.starts_at(epoch)] == [0, 2, 3]
    assert [schedule.position(e) for e in (0.0, 1.5, 2.25, 3.0, 5.75)] == [
        *((0.0, 2), (1.5, 2), (0.25, 1), (0.0, 3), (2.75, 3))
    ]


def test_a_network_without_quantizers_trains_the_sum_in_float() -> None:
    assert Schedule.of(epochs(1, 2, 3), nn.Linear(2, 2)).phases == (Span(Phase.FLOAT, 6),)


@pytest.mark.parametrize(
    ("quantizers", "method"),
    [
        ([LsqWeight(bits=4)], "LSQ"),
        ([SatWeight(bits=4), LsqActivation(nn.ReLU(), bits=4)], "LSQ"),
        ([DorefaWeight(bits=4), PactActivation(nn.ReLU(), bits=4)], "DoReFa and PACT"),
    ],
)
def test_a_clamp_phase_is_refused_where_a_method_has_none(
    quantizers: list[nn.Module], method: str
) -> None:
    model = nn.Sequential(*quantizers)
    told = f"^schedule.clamp_epochs=2 cannot be combined with {method}, .* no clamp phase"
    with pytest.raises(ConfigError, match=told):
        Schedule.of(epochs(clamp=2, quantize=3), model)
    assert Schedule.of(epochs(2, 0, 3), model).epochs == 5


@pytest.mark.parametrize("phase", list(Phase))
def test_epochs_below_0_are_refused_by_their_name(phase: Phase) -> None:
    with pytest.raises(ConfigError, match=rf"^schedule\.{phase.value}_epochs=-1 is wrong"):
        Schedule.of({**epochs(1, 1, 1), phase: -1}, SAT)


def test_a_schedule_without_epochs_is_refused() -> None:
    told = "^schedule has no epochs: float_epochs and clamp_epochs and quantize_epochs are all 0"
    with pytest.raises(ConfigError, match=told):
        Schedule.of(epochs(), SAT)


def test_bits_fall_in_quantize_phases_before_the_last_one() -> None:
    schedule = Schedule.of(epochs(clamp=1, quantize=3), SAT, [8, 6], 2)
    assert [span.name for span in schedule.phases] == [
        *("clamp", "quantize_8bit", "quantize_6bit", "quantize")
    ]
    assert schedule.epochs == 8
    assert [schedule.at(epoch).bits for epoch in range(8)] == [None, 8, 8, 6, 6, *[None] * 3]
    assert Schedule.of(epochs(1, 0, 1), nn.Linear(2, 2), [8], 2).phases == (Span(Phase.FLOAT, 4),)


@pytest.mark.parametrize(
    ("falling", "words"),
    [
        ([6, 8], "schedule.falling_bits=[6, 8] is wrong. Accepted: bits that fall"),
        ([8, 8], "schedule.falling_bits=[8, 8] is wrong. Accepted: bits that fall"),
        ([17], "schedule.falling_bits=[17] is wrong. Accepted: bits that fall, from 16 to 2"),
        ([True], "schedule.falling_bits=[True] is wrong. Accepted: bits that fall"),
        (["8"], "schedule.falling_bits=['8'] is wrong. Accepted: bits that fall"),
        ({8: 1}, "schedule.falling_bits={8: 1} is wrong. Accepted: bits that fall"),
        (8, "schedule.falling_bits=8 is wrong. Accepted: bits that fall"),
        ([8, 4], "schedule.falling_bits=[8, 4] is wrong. Accepted: more bits than 4, as some have"),
    ],
)
def test_bits_that_cannot_fall_are_refused(falling: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        Schedule.of(epochs(quantize=1), LSQ, falling)


def test_falling_bits_need_a_phase_behind_them() -> None:
    with pytest.raises(ConfigError, match=r"^schedule\.quantize_epochs=0 is wrong.*Falling bits"):
        Schedule.of(epochs(1), LSQ, [8])


def test_falling_phases_have_epochs() -> None:
    with pytest.raises(ConfigError, match=r"^schedule\.falling_epochs=0 is wrong"):
        Schedule.of(epochs(1, 0, 1), LSQ, [8], 0)


def test_calibration_needs_a_batch() -> None:
    with pytest.raises(ConfigError, match=r"^schedule\.calibration_batches=0 is wrong"):
        PhaseSchedule(Schedule.of(epochs(quantize=1), SAT), 0)


# ---- the change from float to quantized


class Batches(DataLoader[Any]):
    def of_all_processes(self) -> Batches:
        return self  # there is one


class Numbers:
    """Four batches of the same numbers, larger from batch to batch."""

    validation = 0
    batch_size = 8
    trainer: Any = None

    def prepare_data(self) -> None:
        pass

    def setup(self, stage: str) -> None:
        pass

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.linspace(-1, 1, 32).repeat_interleave(3).reshape(32, 3)
        x = x * torch.arange(1.0, 5.0).repeat_interleave(8)[:, None]
        return Batches(TensorDataset(x, x.sum(1)), batch_size=8)

    def val_dataloader(self) -> list[Any]:
        return []


class Learner(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [QuantLinear.of(nn.Linear(3, 4), LsqWeight(bits=4))]
        layers.append(LsqActivation(nn.ReLU(), bits=4, start="min_max"))
        self.model = nn.Sequential(*layers, QuantLinear.of(nn.Linear(4, 1), LsqWeight(bits=4)))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return (self.model(batch[0]).squeeze(1) - batch[1]).square().mean()

    def evaluate_batch(self, x: Tensor, targets: Tensor) -> Tensor:
        return (self.model(x).squeeze(1) - targets).square().sum()

    def means(self, sums: Tensor) -> dict[str, float]:
        return {"loss": sums[0].item()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


class Watch(Callback):
    """Notes the phases, the steps and the optimizer's state before each training step."""

    def __init__(self) -> None:
        self.phases: list[set[Phase]] = []
        self.steps: list[list[float] | None] = []
        self.states: list[int] = []
        self.bits: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *batch: Any) -> None:
        found = [m for m in pl_module.modules() if isinstance(m, (LsqWeight, LsqActivation))]
        self.phases.append({q.phase for q in found})
        started = all(q.initialized for q in found)
        self.steps.append([q.step_size.item() for q in found] if started else None)
        self.states.append(len(trainer.optimizers[0].state))
        self.bits.append([q.bits for q in found])
        if len(self.phases) == 5:  # the change
            self.model = copy.deepcopy(pl_module.model)


def watched(falling: list[int] | None = None) -> Watch:
    watch, learner = Watch(), Learner()
    schedule = Schedule.of(epochs(float_=1, quantize=2), learner.model, falling)
    trainer = Trainer(
        max_epochs=schedule.epochs,
        limit_val_batches=0,
        accelerator="cpu",
        callbacks=[PhaseSchedule(schedule, calibration_batches=2), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(learner, datamodule=DataModule(Numbers()))
    return watch


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `validation_step`")
def test_float_epochs_come_before_quantized_ones() -> None:
    watch = watched()
    assert watch.phases == [{Phase.FLOAT}] * 4 + [{Phase.QUANTIZE}] * 8
    # Nothing starts before: at the change all steps do, and then they are learned.
    assert watch.steps[:4] == [None] * 4
    assert all(watch.steps[4:])
    for before, after in zip(watch.steps[4] or [], watch.steps[-1] or [], strict=True):
        assert before != after
    # The momentum of the float phase is dropped, and that of the quantize phase is kept.
    assert [count > 0 for count in watch.states] == [
        *(False, True, True, True),
        *(False, True, True, True, True, True, True, True),
    ]
    # Activations start from the first two batches, behind weights that are quantized by then.
    images = [x for x, _ in Numbers().train_dataloader()][:2]
    with torch.no_grad():
        largest = [watch.model[0](x).max().item() for x in images]
    assert (watch.steps[4] or [])[1] == pytest.approx(sum(largest) / 2 / 15, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `validation_step`")
def test_with_fewer_bits_steps_start_anew() -> None:
    watch = watched([8])
    assert watch.bits == [[4] * 3] * 4 + [[8] * 3] * 4 + [[4] * 3] * 8
    eight, four = (watch.steps[at] or [] for at in (4, 8))
    # The ranges of activations are about the same, in 255 and in 15 steps.
    assert four[1] * 15 == pytest.approx(eight[1] * 255, rel=0.1)
    assert watch.states[8] == 0  # a training of its own
    with torch.no_grad():
        weight, quantizer = watch.model[0].weight, watch.model[0].weight_quantizer
        assert quantizer.grid.q_max == 127
        codes = quantizer(weight) / quantizer.weight_step(weight)
    assert codes.abs().max() > 8  # which four bits do not hold


def test_a_grid_is_as_wide_as_its_checkpoint_says() -> None:
    wide, other = LsqActivation(nn.ReLU(), bits=2), LsqActivation(nn.ReLU(), bits=2)
    wide.widen(8)
    wide.begin_with(torch.rand(100))
    other.load_state_dict(wide.state_dict())
    x = torch.rand(50)
    assert torch.equal(other(x), wide(x))
    assert len(other(x).unique()) > 4
    other.widen(None)
    assert other.n_steps == 3
    assert other.needs_start  # a step of 1/255 is none of 1/3


def test_a_clip_value_means_the_same_with_any_bits() -> None:
    site = SatActivation(nn.ReLU(), bits=2, alpha=2.0)
    site.begin_with(torch.rand(4))
    site.widen(8)
    assert not site.needs_start
    assert site(torch.tensor([0.5])).item() == pytest.approx(0.5, abs=1 / 255)
    site.widen(None)
    assert site(torch.tensor([0.5])).item() == pytest.approx(2 / 3)


def test_a_given_step_keeps_its_range_with_more_bits() -> None:
    quantizer = LsqWeight(bits=4, step_size=0.1)
    quantizer.widen(8)
    quantizer.begin_with(torch.randn(50))
    assert quantizer.step_size.item() == pytest.approx(0.1 * 7 / 127)
    quantizer.widen(None)
    quantizer.begin_with(torch.randn(50))
    assert quantizer.step_size.item() == pytest.approx(0.1)
