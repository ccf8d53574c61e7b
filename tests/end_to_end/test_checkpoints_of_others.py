"""A checkpoint of another run fits, but its numbers are not those of the run it lies in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from killable_runs import Ended, start_forked
from mistakes import TINY

from qatlab.errors import CheckpointError
from qatlab.run.loading import load_run

OTHERS = "is the checkpoint of another run: data.shuffle_seed is 2 there and 1 here"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``1`` and ``2``, which differ in their seed."""
    folder = tmp_path_factory.mktemp("finished")
    for seed in (1, 2):
        words = (*TINY, "data.validation=100", f"seed={seed}", f"hydra.run.dir={folder}/{seed}")
        ended = start_forked(folder / "log", "train.py", *words)
        assert ended.code == 0, ended.output
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run ``1``."""
    return Path(shutil.copytree(finished / "1", tmp_path / "run"))


def take(finished: Path, run: Path, name: str) -> None:
    """Put a checkpoint of the run ``2`` in the place of the run's own."""
    shutil.copy(finished / "2/checkpoints" / name, run / "checkpoints" / name)


def resume(run: Path, *words: str) -> Ended:
    (run / "result.json").unlink()
    return start_forked(run.parent / "log", "train.py", f"resume={run}", *words)


def test_a_test_refuses_the_checkpoint_of_another_run(finished: Path, run: Path) -> None:
    take(finished, run, "best_quantize.ckpt")
    ended = start_forked(run.parent / "log", "test.py", f"run={run}")
    assert ended.code == 1
    assert f"{run}/checkpoints/best_quantize.ckpt {OTHERS}" in ended.output


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_python_refuses_the_checkpoint_of_another_run(
    checkpoint: str, finished: Path, run: Path
) -> None:
    load_run(run, checkpoint)
    take(finished, run, "last.ckpt" if checkpoint == "last" else "best_quantize.ckpt")
    with pytest.raises(CheckpointError, match=OTHERS):
        load_run(run, checkpoint)


@pytest.mark.parametrize("name", ["last.ckpt", "best_quantize.ckpt"])
def test_a_resume_refuses_the_checkpoint_of_another_run(
    name: str, finished: Path, run: Path
) -> None:
    take(finished, run, name)
    ended = resume(run)
    assert ended.code == 1
    assert f"{run}/checkpoints/{name} {OTHERS}" in ended.output
    assert not (run / "result.json").exists()


def test_a_resume_goes_on_where_what_it_was_trained_under_is_damaged(run: Path) -> None:
    (run / "environment.json").write_text("")
    ended = resume(run)
    assert ended.code == 0, ended.output
    assert f"cannot read {run}/environment.json" in ended.output


def test_a_resume_under_other_settings_goes_on_and_is_tested(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("batch_size: 64", "batch_size: 32", 1))
    ended = resume(run)
    assert ended.code == 0, ended.output
    assert "data.batch_size changed from 64 to 32" in ended.output
    load_run(run)  # one of the settings that it was trained under


def test_what_a_run_was_trained_under_may_be_forgotten(finished: Path, run: Path) -> None:
    take(finished, run, "best_quantize.ckpt")
    (run / "environment.json").unlink()
    load_run(run)
