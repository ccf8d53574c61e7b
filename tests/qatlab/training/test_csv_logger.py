import math
import os
import struct
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from qatlab.errors import ConfigError, TrainingError
from qatlab.training.csv_logger import CsvLogger, read_rows

THREE_EPOCHS = "epoch,step,phase,val/acc\n0,9,clamp,0.5\n1,19,clamp,0.25\n2,29,quantize,0.75\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_bytes(text.encode())
    return path


def test_values_of_one_step_share_a_row(tmp_path: Path) -> None:
    logger = CsvLogger(str(tmp_path / "run"))
    logger.log_metrics({"val/acc": 0.5, "epoch": 0}, step=9)
    logger.note(9, phase="clamp")
    logger.log_metrics({"train/loss": 2.0, "epoch": 0}, step=9)
    logger.log_metrics({"val/acc": 0.25, "epoch": 1}, step=19)
    logger.save()
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (
        b"epoch,step,phase,val/acc,train/loss\n0,9,clamp,0.5,2.0\n1,19,,0.25,\n"
    )


def test_numbers_read_back_bit_for_bit(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": torch.tensor(1 / 3), "d": math.nan, "e": math.inf}
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics(values, step=0)
    logger.save()
    [row] = read_rows(tmp_path / "metrics.csv")
    for name, value in values.items():
        assert struct.pack("d", float(row[name])) == struct.pack("d", float(value))


def test_text_with_commas_quotes_and_lines_reads_back(tmp_path: Path) -> None:
    logger = CsvLogger(str(tmp_path))
    logger.note(0, phase='one, "two"\nthree')
    logger.save()
    again = CsvLogger(str(tmp_path))
    again.save()
    assert again._rows == {0: {"epoch": "", "step": "0", "phase": 'one, "two"\nthree'}}


def test_resumed_run_drops_the_rows_after_its_checkpoint_and_keeps_the_others(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, THREE_EPOCHS)
    logger = CsvLogger(str(tmp_path))
    logger.save()
    assert path.read_text() == THREE_EPOCHS  # nothing is dropped before the first value

    logger.log_metrics({"val/acc": 0.125, "epoch": 1}, step=19)
    logger.note(19, phase="clamp")
    logger.save()
    assert path.read_text() == "epoch,step,phase,val/acc\n0,9,clamp,0.5\n1,19,clamp,0.125\n"

    logger.log_metrics({"val/acc": 0.375, "epoch": 0}, step=9)  # only the first value drops rows
    logger.save()
    assert path.read_text() == "epoch,step,phase,val/acc\n0,9,clamp,0.375\n1,19,clamp,0.125\n"


def test_columns_of_single_sites_stand_behind_those_of_the_run(tmp_path: Path) -> None:
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        logger = CsvLogger(str(folder))
        for step in (9, 19):
            if folder.name == "parts":
                logger = CsvLogger(str(folder))  # as in a run resumed for each row
            logger.log_metrics({"quant/act/alpha": 2.0, "quant/act/clipped": 0.5}, step)
            logger.log_metrics({"train/loss": 2.0, f"new_at_{step}": 1}, step)
            logger.save()
        assert (folder / "metrics.csv").read_text().splitlines()[0] == (
            "epoch,step,phase,train/loss,new_at_9,new_at_19,quant/act/alpha,quant/act/clipped"
        )


def test_values_of_a_test_are_not_part_of_the_training(tmp_path: Path) -> None:
    path = write(tmp_path, THREE_EPOCHS)
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({"test/acc": 0.9, "epoch": 0}, step=0)  # what a new trainer's test logs
    logger.save()
    assert path.read_text() == THREE_EPOCHS


def test_file_is_written_only_when_something_was_added(tmp_path: Path) -> None:
    logger = CsvLogger(str(tmp_path))
    logger.log_hyperparams({"lr": 0.1})
    logger.save()
    assert list(tmp_path.iterdir()) == []
    logger.log_metrics({"val/acc": 0.5})  # no step: a new row
    logger.finalize("success")
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    assert read_rows(tmp_path / "metrics.csv")[0]["step"] == "0"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (THREE_EPOCHS + "3,39,quan\n", 5),
        (THREE_EPOCHS + "3,,quantize,0.5\n", 5),
        (THREE_EPOCHS + "3,29,quantize,0.5\n", 5),
        (THREE_EPOCHS + "3,39,quantize,much\n", 5),
        ("epoch,phase\n0,clamp\n", 1),
        ("\0e\0p\0o\n", 1),
    ],
)
def test_damaged_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    write(tmp_path, text)
    with pytest.raises(TrainingError, match=rf"metrics\.csv:{line}: [^\n]*\.$"):
        CsvLogger(str(tmp_path)).save()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (THREE_EPOCHS.encode("utf-16"), r"metrics\.csv is not UTF-8 text"),
        (b"epoch,step\n0," + b"1" * 300_000 + b"\n", r"field larger than .* \(line 2\)"),
        (b"epoch,step\n0," + b"1" * 10_000 + b"\n", r"cannot read .*digits.* \(line 2\)"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(TrainingError, match=words):
        CsvLogger(str(tmp_path)).save()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.csv")
    with pytest.raises(ConfigError, match="pipe"):
        CsvLogger(str(tmp_path)).save()


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (None, "is missing: the run goes on, and its curves lack epoch 1 to 3."),
        (0, "has no rows: the run goes on, and its curves lack epoch 1 to 3."),
        (5, "has no rows: the run goes on, and its curves lack epoch 1 to 3."),
        (len("epoch,step,phase,val/acc\n0,9,clamp,0.5\n"), "ends at step 9, in epoch 1: "),
        # In the middle of a number that looks whole.
        (len(THREE_EPOCHS) - 2, "ends at step 19, in epoch 2: the run goes on, and its curves "),
        (len(THREE_EPOCHS), ""),
    ],
)
def test_rows_that_a_resumed_run_does_not_find_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], left: int | None, told: str
) -> None:
    if left is not None:
        write(tmp_path, THREE_EPOCHS[:left])
    logger = CsvLogger(str(tmp_path))
    logger.check(epochs=3, steps=30)
    said = capsys.readouterr().out
    assert said.count("\n") == (told != "")
    assert told in said
    assert (str(tmp_path / "metrics.csv") in said) == (told != "")
    logger.log_metrics({"val/acc": 0.5, "epoch": 3}, step=39)
    logger.save()
    assert read_rows(tmp_path / "metrics.csv")[-1]["step"] == "39"


def test_rows_behind_the_checkpoint_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, THREE_EPOCHS)
    CsvLogger(str(tmp_path)).check(epochs=1, steps=15)
    CsvLogger(str(tmp_path)).check(epochs=0, steps=0)
    assert capsys.readouterr().out == ""


class TinyModule(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val/loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class NotePhaseAndDie(Callback):
    def __init__(self, dies_in_epoch: int | None) -> None:
        self.dies_in_epoch = dies_in_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(trainer.logger, CsvLogger)
        trainer.logger.note(trainer.global_step - 1, phase="clamp")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.dies_in_epoch:
            raise RuntimeError("killed")


def train(
    folder: Path,
    *,
    dies_in_epoch: int | None = None,
    resume: Path | None = None,
    saves_after_validation: bool = False,
) -> str:
    seed_everything(1, verbose=False)
    data = DataLoader(TensorDataset(torch.arange(16.0).view(8, 2) / 16), batch_size=2)
    checkpoint = ModelCheckpoint(
        folder / "checkpoints",
        "{epoch}",
        save_top_k=-1,
        every_n_epochs=2,
        save_on_train_epoch_end=not saves_after_validation,
    )
    trainer = Trainer(
        max_epochs=4,
        logger=CsvLogger(str(folder)),
        callbacks=[NotePhaseAndDie(dies_in_epoch), checkpoint],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(TinyModule(), data, data, ckpt_path=resume)
    return (folder / "metrics.csv").read_text()


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and folders
@pytest.mark.parametrize("saves_after_validation", [False, True])
def test_killed_and_resumed_run_leaves_the_file_of_a_run_in_one_piece(
    tmp_path: Path, saves_after_validation: bool
) -> None:
    whole = train(tmp_path / "whole", saves_after_validation=saves_after_validation)
    parts = tmp_path / "parts"
    with pytest.raises(RuntimeError, match="killed"):
        train(parts, dies_in_epoch=3, saves_after_validation=saves_after_validation)
    assert [row["step"] for row in read_rows(parts / "metrics.csv")] == ["3", "7", "11"]

    resume = parts / "checkpoints" / "epoch=1.ckpt"
    resumed = train(parts, resume=resume, saves_after_validation=saves_after_validation)
    assert resumed == whole
    assert [row["step"] for row in read_rows(parts / "metrics.csv")] == ["3", "7", "11", "15"]
    assert all("" not in row.values() for row in read_rows(parts / "metrics.csv"))
