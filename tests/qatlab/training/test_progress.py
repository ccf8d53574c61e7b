import json
import os
import platform
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch.utils.data import DataLoader, TensorDataset

from qatlab.system.terminal import logged
from qatlab.training.progress import PhaseProgressBar, epoch_line

METRICS = {
    "train/loss": 0.03117,
    "train/acc": 0.99017,
    "val/loss": torch.tensor(0.04014),
    "val/acc": 0.98841,
    "lr": 0.0417,
}


def test_line_names_epoch_phase_metrics_and_seconds() -> None:
    assert epoch_line(3, 27, "clamp", METRICS, 5.31) == (
        "epoch 3/27 [clamp] train/loss 0.0312 train/acc 99.02% val/loss 0.0401 val/acc 98.84% "
        "lr 0.0417 5.3 s"
    )


def test_line_leaves_out_what_is_not_known() -> None:
    assert epoch_line(1, -1, "", {}, 0.04) == "epoch 1 0.0 s"
    assert epoch_line(1, None, "", {"lr": 0.05}, 12.0) == "epoch 1 lr 0.05 12.0 s"


@pytest.mark.parametrize(
    ("phase_epochs", "phase", "epoch", "expected"),
    [
        ({"clamp": 12, "quantize": 15}, "clamp", 0, "clamp 1/12"),
        ({"clamp": 12, "quantize": 15}, "clamp", 11, "clamp 12/12"),
        # The module still names the phase of the epoch before: the bar must not.
        ({"clamp": 12, "quantize": 15}, "clamp", 12, "quantize 1/15"),
        ({"clamp": 12, "quantize": 15}, "quantize", 26, "quantize 15/15"),
        ({"clamp": 0, "quantize": 27}, "quantize", 0, "quantize 1/27"),
        (None, "clamp", 2, "clamp 3/27"),
        (None, None, 2, "epoch 3/27"),
    ],
)
def test_bar_counts_the_epochs_of_each_phase(
    phase_epochs: dict[str, int] | None, phase: str | None, epoch: int, expected: str
) -> None:
    bar = PhaseProgressBar(phase_epochs)
    module = SimpleNamespace() if phase is None else SimpleNamespace(phase_name=phase)
    trainer: Any = SimpleNamespace(max_epochs=27, lightning_module=module)
    bar._trainer = trainer
    assert bar._get_train_description(epoch).rstrip() == expected


def test_bar_is_updated_at_most_five_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []
    monkeypatch.setattr(
        RichProgressBar, "on_train_batch_end", lambda *args: updates.append(args[-1])
    )
    now = 100.0
    monkeypatch.setattr("qatlab.training.progress.time.monotonic", lambda: now)
    bar = PhaseProgressBar()
    trainer: Any = SimpleNamespace(max_epochs=1, num_training_batches=64)
    bar._trainer = trainer
    for step in range(64):
        bar.on_train_batch_end(trainer, TinyModule(), None, None, step)
        now += 1 / 64
    # 0.2 s are 12.8 steps; the last step is drawn whenever it comes.
    assert updates == [0, 13, 26, 39, 52, 63]


def test_run_resumed_in_mid_epoch_counts_seconds_from_its_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("qatlab.training.progress.time.monotonic", lambda: now)
    bar = PhaseProgressBar()
    trainer: Any = SimpleNamespace(
        is_global_zero=True, current_epoch=2, max_epochs=27, callback_metrics={"lr": 0.1}
    )
    bar.setup(trainer, TinyModule(), "fit")
    bar.on_train_start(trainer, TinyModule())
    now += 7.0  # no on_train_epoch_start: the epoch was begun by the killed run
    bar.on_train_epoch_end(trainer, TinyModule())
    bar.on_train_end(trainer, TinyModule())
    assert capsys.readouterr().out == "epoch 3/27 [clamp] lr 0.1 7.0 s\n"


class TinyModule(LightningModule):
    phase_name = "clamp"

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", 0 * loss + 0.25, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val/acc", 0.5)

    def on_train_epoch_end(self) -> None:
        self.log("train/acc", 0.75, prog_bar=True)  # after the progress bar's own hook

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SwitchPhase(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.phase_name = "clamp" if trainer.current_epoch < 1 else "quantize"


def train(bar: PhaseProgressBar, module: LightningModule) -> None:
    data = DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2)
    trainer = Trainer(
        max_epochs=2,
        callbacks=[SwitchPhase(), bar],
        check_val_every_n_epoch=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, data)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_log_file_gets_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    train(PhaseProgressBar({"clamp": 1, "quantize": 1}), TinyModule())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert lines[0].endswith(" left")
    assert [re.sub(r" \d+\.\d s(, \d+:\d+ left)?$", "", line) for line in lines] == [
        "epoch 1/1 [clamp] train/loss 0.25 train/acc 75.00%",
        "epoch 1/1 [quantize] train/loss 0.25 train/acc 75.00% val/acc 50.00%",
    ]


@pytest.mark.filterwarnings("ignore")
def test_terminal_gets_a_bar_with_phase_and_percentages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    train(PhaseProgressBar({"clamp": 1, "quantize": 1}), TinyModule())
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "quantize 1/1" in shown
    assert "loss: 0.25 acc: 75.00% val/acc: 50.00%" in shown
    assert "epoch 1/2" not in shown
    assert re.search(r"2/2 \d+:\d\d of \d+:\d\d left", shown)  # of the epoch, and of the run


@pytest.mark.filterwarnings("ignore")
def test_the_bar_has_the_loss_of_the_present_epoch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    module = TinyModule()
    module.running = {"loss": 0.125, "acc": 0.5}
    train(PhaseProgressBar({"clamp": 1, "quantize": 1}), module)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    assert "loss: 0.125 acc: 50.00%" in shown
    assert "loss: 0.25" not in shown


@pytest.mark.filterwarnings("ignore")
def test_the_lines_stand_in_the_log_of_a_run_with_a_bar_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with logged(tmp_path):
        train(PhaseProgressBar({"clamp": 1, "quantize": 1}, tmp_path), TinyModule())
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line[:20] for line in lines if line.startswith("epoch")] == [
        *("epoch 1/1 [clamp] tr", "epoch 1/1 [quantize]"),
    ]
    assert not any("\x1b" in line for line in lines)


@pytest.mark.filterwarnings("ignore")
def test_a_run_tells_in_a_file_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qatlab.training.progress.SECONDS_OF_FILE", 0.0)
    train(PhaseProgressBar({"clamp": 1, "quantize": 1}, tmp_path), TinyModule())
    facts = json.loads((tmp_path / "progress.json").read_text())
    assert (facts["phase"], facts["epoch"], facts["epochs"]) == ("quantize", 1, 1)
    assert (facts["share"], facts["pid"], facts["host"]) == (1.0, os.getpid(), platform.node())
    assert facts["seconds_left"] >= 0
    assert abs(facts["updated"] - time.time()) < 3600
