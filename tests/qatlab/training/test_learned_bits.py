"""Widths that are learned: they go where bits gain most, within the budget (arXiv:2007.02017)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qatlab.errors import ConfigError
from qatlab.quant import LsqWeight, ModelTable, Phase, SatWeight, quantize, quantizers
from qatlab.training.learned_bits import LearnedBits
from qatlab.training.schedule import Schedule, Span

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging

EPOCHS, STEPS = 4, 60


class Two(nn.Module):
    """Two layers that see the same values; the outputs of the second count a hundredth."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 16)`` for ``(N, 16)``."""
        result: Tensor = self.first(x) + 0.01 * self.second(x)
        return result


class Copying(LightningModule):
    """Learns what the float network answers; but its weights do not move, only widths do."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        net = Two()
        self.model, self.table = quantize(net, weight, None, [], torch.zeros(1, 16))
        self.first, self.second = (
            layer.weight.detach().clone() for layer in (net.first, net.second)
        )
        self.position = Schedule((Span(Phase.QUANTIZE, EPOCHS),)).position
        self.seen: list[dict[str, float]] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.0)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        widths = {q.layer: q.width for q in quantizers(self.model)}
        self.seen.append({k: float(w.value) for k, w in widths.items() if w is not None})
        target = batch @ self.first.T + 0.01 * batch @ self.second.T
        return (self.model(batch) - target).square().mean()


def fit(module: LightningModule, callback: LearnedBits, epochs: int, steps: int) -> None:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.randn(steps, 8, 16), batch_size=None))  # type: ignore[arg-type]


def learn(weight: Any, **settings: Any) -> tuple[Copying, LearnedBits]:
    module = Copying(weight)
    callback = LearnedBits({"mean_bits": 4.0}, **{"lr": 0.05, **settings})
    callback.prepare(module.table, [], EPOCHS)
    fit(module, callback, EPOCHS, STEPS)
    return module, callback


@pytest.mark.parametrize(
    "weight", [partial(LsqWeight, bits=4), partial(SatWeight, bits=4, scaling=True)]
)
def test_bits_go_where_they_count_within_the_budget(weight: Any) -> None:
    module, _ = learn(weight)
    assert module.seen[0] == {"first": pytest.approx(4), "second": pytest.approx(4)}
    learned = [widths for widths in module.seen if widths]
    assert len(learned) == 2 * STEPS  # half of the epochs
    # In two thirds of them the widths move, and cost the budget in each step.
    for widths in learned[: 4 * STEPS // 3]:
        assert sum(widths.values()) / 2 == pytest.approx(4, abs=1e-5)
    first, second = (own.bits for own in quantizers(module.model))
    assert first > second
    assert 0.98 * 4 <= (first + second) / 2 <= 4
    assert all(own.width is None and own.has_learned_bits for own in quantizers(module.model))
    end = learned[-1]
    assert abs(end["first"] - first) < 0.05  # a line that ends with the last step
    table = module.table.with_learned_bits(module.model)
    rows = [row for row in table.layers if row.part == "weight"]
    assert [(row.name, row.bits, row.rules) for row in rows] == [
        ("first", first, ("learned bits",)),
        ("second", second, ("learned bits",)),
    ]


def test_lowest_and_highest_are_kept() -> None:
    module, _ = learn(partial(LsqWeight, bits=4), lowest=3, highest=5)
    values = [width for widths in module.seen for width in widths.values()]
    assert min(values) >= 3
    assert max(values) <= 5
    assert [own.bits for own in quantizers(module.model)] == [5, 3]


def test_the_share_of_the_epochs_is_for_learning() -> None:
    module, _ = learn(partial(LsqWeight, bits=4), share=0.25)
    assert len([widths for widths in module.seen if widths]) == STEPS


def test_its_state_comes_back() -> None:
    module, callback = learn(partial(LsqWeight, bits=4), share=0.75)
    other = LearnedBits({"mean_bits": 4.0})
    other.load_state_dict(callback.state_dict())
    assert other.state_dict() == callback.state_dict()
    bits = [own.bits for own in quantizers(module.model)]
    assert callback.state_dict()["bits"] == callback.state_dict()["targets"] == bits


def test_the_step_of_another_grid_starts_without_momentum() -> None:
    module = Copying(partial(LsqWeight, bits=4))
    module.position = Schedule((Span(Phase.QUANTIZE, 2),)).position
    optimizer = torch.optim.SGD(module.model.parameters(), lr=1e-9, momentum=0.9)
    module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
    steps = [own.step_size for own in quantizers(module.model)]  # type: ignore[attr-defined]
    seen: list[set[bool]] = []

    class Look(LearnedBits):
        def on_train_batch_start(self, *args: Any) -> None:
            super().on_train_batch_start(*args)
            seen.append({step in optimizer.state for step in steps})

    look = Look({"mean_bits": 4.0}, lr=0.05)
    look.prepare(module.table, [], 2)
    fit(module, look, epochs=2, steps=5)
    assert seen == [{False}, *[{True}] * 4, {False}, *[{True}] * 4]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lowest": 1}, "callbacks.learned_bits.lowest=1 is wrong. Accepted: a whole number from"),
        ({"highest": 17}, "callbacks.learned_bits.highest=17 is wrong"),
        ({"lowest": 4, "highest": 4}, "lowest=4 is wrong. Accepted: less than highest, which is 4"),
        ({"lr": math.inf}, "callbacks.learned_bits.lr=inf is wrong"),
        ({"share": 1}, "callbacks.learned_bits.share=1 is wrong. Accepted: a number in (0, 1)."),
        ({"budget": {}}, "callbacks.learned_bits.budget has none. Accepted: exactly one of size"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LearnedBits(**{"budget": {"size": 1}, **settings})
    assert words in str(caught.value)


def test_a_phase_of_one_epoch_is_refused() -> None:
    table: ModelTable = Copying(partial(LsqWeight, bits=4)).table
    with pytest.raises(ConfigError, match=r"needs schedule.quantize_epochs of at least 2, not 1"):
        LearnedBits({"mean_bits": 4.0}).prepare(table, [], 1)
