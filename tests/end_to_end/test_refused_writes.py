"""Disks that refuse a write, and kills in the middle of one: the run goes on as if nothing was."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killable_runs import FILE_SIZE, KILL_WRITING, Ended, start_forked, start_two_forked
from mistakes import FINISHED

Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lambda script, *words, **env: start_forked(tmp_path / "log", script, *words, **env)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a small disk, or gives it another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def of_size(size: str) -> Path:
        words = ["-o", f"remount,size={size}"] if place.is_mount() else ["-t", "tmpfs", "-o"]
        words += [] if place.is_mount() else [f"size={size}", "tmpfs"]
        try:
            subprocess.run(["mount", *words, str(place)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here: {error}")
        return place

    yield of_size
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def result_of(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {k: v for k, v in result.items() if k not in ("seconds", "resumed", "environment")}


def assert_told(ended: Ended, folder: Path, reason: str) -> None:
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output, ended.output
    *_, line = ended.output.splitlines()
    told = rf"Error: cannot write {folder}/[\w./]+: {reason}\. To continue: python train\.py (.*)"
    found = re.fullmatch(told, line)
    assert found, line
    assert found[1] == f"resume={folder}"
    assert ".tmp" not in line
    assert ".new" not in line


def assert_undisturbed(ended: Ended, folder: Path, finished: Path) -> None:
    assert ended.code == 0, ended.output
    assert result_of(folder) == result_of(finished)
    assert (folder / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()
    left = [p.name for p in folder.rglob("*") if ".tmp" in p.name or p.suffix == ".new"]
    assert left == []


def test_a_file_that_may_not_be_so_large_is_reported_and_the_run_goes_on_later(
    tmp_path: Path, run: Run, finished: Path
) -> None:
    folder = tmp_path / "run"
    words = (*FINISHED, f"hydra.run.dir={folder}")
    refused = run("train.py", *words, **{FILE_SIZE: str(200 << 10)})
    assert_told(refused, folder, "File too large")
    assert_undisturbed(run("train.py", f"resume={folder}"), folder, finished)


@pytest.mark.parametrize(
    "size",
    [
        "900k",  # room for one checkpoint of half a megabyte
        pytest.param("300k", marks=pytest.mark.slow),  # for none
        pytest.param("1400k", marks=pytest.mark.slow),  # for two
        pytest.param("1900k", marks=pytest.mark.slow),  # for three
        pytest.param("2250k", marks=pytest.mark.slow),  # for all, but not for the weights
    ],
)
def test_a_full_disk_is_reported_and_the_run_goes_on_when_there_is_room(
    size: str, disk: Callable[[str], Path], run: Run, finished: Path
) -> None:
    folder = disk(size) / "run"
    refused = run("train.py", *FINISHED, f"hydra.run.dir={folder}")
    assert_told(refused, folder, "No space left on device")
    disk("64m")
    assert_undisturbed(run("train.py", f"resume={folder}"), folder, finished)


@pytest.mark.parametrize(
    "place",
    [
        "last 2",
        pytest.param("last 1", marks=pytest.mark.slow),
        pytest.param("best_clamp 1", marks=pytest.mark.slow),
        pytest.param("best_quantize 1", marks=pytest.mark.slow),
    ],
)
def test_a_kill_while_a_checkpoint_is_written_leaves_one_file_until_the_resume(
    place: str, tmp_path: Path, run: Run, finished: Path
) -> None:
    folder, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    words = (*FINISHED, f"hydra.run.dir={folder}")
    killed = run("train.py", *words, **{KILL_WRITING: place}, TMPDIR=str(temporary))
    assert killed.code == -9, killed.output
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
    unfinished = [p for p in (folder / "checkpoints").iterdir() if p.suffix != ".ckpt"]
    assert len(unfinished) == 1, unfinished
    assert_undisturbed(run("train.py", f"resume={folder}"), folder, finished)


@pytest.mark.parametrize("writer", ["AsyncCheckpointIO", "TorchCheckpointIO"])
def test_a_writer_of_the_users_own_leaves_the_same_checkpoints(
    writer: str, tmp_path: Path, run: Run, finished: Path
) -> None:
    plugin = f"+trainer.plugins=[{{_target_: pytorch_lightning.plugins.{writer}}}]"
    ended = run("train.py", *FINISHED, plugin, f"hydra.run.dir={tmp_path / 'run'}")
    assert_undisturbed(ended, tmp_path / "run", finished)
    names, expected = (
        sorted(path.name for path in (folder / "checkpoints").iterdir())
        for folder in (tmp_path / "run", finished)
    )
    assert names == expected


@pytest.mark.slow
def test_of_two_processes_the_one_that_may_write_tells_what_was_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    several = ("trainer=ddp", "trainer.devices=2", "trainer.sync_batchnorm=true")
    words = (*FINISHED, *several, f"hydra.run.dir={folder}")
    size = {FILE_SIZE: str(200 << 10)}
    first, second = start_two_forked(tmp_path, "train.py", *words, **size)
    assert_told(first, folder, "File too large")
    assert second.code == 1, second.output
    assert "Traceback" not in second.output
    assert second.output.endswith(
        "Error: another process of this run has ended; its own message says why.\n"
    )
    words = (f"resume={folder}", f"hydra.run.dir={folder}/resumed")
    resumed = start_two_forked(tmp_path, "train.py", *words)
    assert [ended.code for ended in resumed] == [0, 0], resumed
