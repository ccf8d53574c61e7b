"""Short trainings are watched by what they write: ended early, read once they are there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from qatlab.errors import ConfigError, QatlabError
from qatlab.run import short_runs
from qatlab.run.short_runs import ShortRuns
from qatlab.system import files

HEADER = "epoch,step,phase,val/acc\n"


def csv(*accuracies: float) -> str:
    """What a run writes; its float phase does not count."""
    rows = [f"{i + 1},{i + 1},quantize,{own}\n" for i, own in enumerate(accuracies)]
    return HEADER + "0,0,float,0.99\n" + "".join(rows)


def finished(folder: Path, *accuracies: float) -> None:
    files.write_text(folder / "metrics.csv", csv(*accuracies))
    best = {"float": {"val/acc": 0.99}, "quantize": {"val/acc": max(accuracies)}}
    files.write_json(folder / "result.json", {"checkpoint": "best.ckpt", "best": best})


def started(monkeypatch: pytest.MonkeyPatch, program: str) -> list[list[str]]:
    """Have a program of Python in the place of each training; return the words of all."""
    words: list[list[str]] = []

    def start(given: Sequence[str], **streams: Any) -> Popen[str]:
        words.append([*given])
        return Popen([sys.executable, "-c", program], text=True, **streams)

    monkeypatch.setattr(short_runs, "start_training", start)
    return words


def never(accuracies: Sequence[float]) -> bool:
    return False


def test_what_is_trained_already_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "round_1"
    finished(folder, 0.5, 0.75, 0.7)
    told: list[int] = []
    found = ShortRuns(3).train([], folder, never, told.append)
    assert (found.run, found.state, found.accuracy) == ("round_1", "done", 0.75)
    assert found.accuracies == [0.5, 0.75, 0.7]
    assert told == [3]


def test_each_epoch_but_the_last_is_asked_once_and_what_comes_later_does_not_count(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "trial_1"
    finished(folder, 0.5, 0.75, 0.6, 0.9)  # it had ended before anybody looked
    asked: list[Sequence[float]] = []

    def stop(accuracies: Sequence[float]) -> bool:
        asked.append([*accuracies])
        return len(accuracies) == 3

    found = ShortRuns(4).train([], folder, stop, lambda done: None)
    assert asked == [[0.5], [0.5, 0.75], [0.5, 0.75, 0.6]]
    assert (found.state, found.accuracy) == ("pruned", 0.75)
    assert found.accuracies == [0.5, 0.75, 0.6]
    asked.clear()
    assert ShortRuns(3).train([], folder, stop, lambda done: None).state == "done"
    assert asked == [[0.5], [0.5, 0.75]]


def test_a_training_is_ended_where_it_lags_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trial_1"
    folder.mkdir()
    text = csv(0.25)
    place = str(folder / "metrics.csv")
    wait = f"open({place!r}, 'w').write({text!r}); import time; time.sleep(600)"
    words = started(monkeypatch, wait)
    found = ShortRuns(3).train(["seed=2"], folder, lambda own: own[-1] < 0.5, lambda done: None)
    assert (found.state, found.accuracies) == ("pruned", [0.25])
    assert words == [["seed=2", f"hydra.run.dir={folder}"]]


def test_what_was_begun_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "config.yaml").touch()
    words = started(monkeypatch, "raise SystemExit('Error: no such thing')")
    found = ShortRuns(3, ["mynet"]).train(["seed=2"], folder, never, lambda done: None)
    assert words == [[f'resume="{folder}"', "allow=[mynet]"]]
    assert (found.state, found.accuracy, found.reason) == ("failed", None, "no such thing")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit(3)", "the process exited with code 3 without a message"),
        ("import sys; print('a trace\\nIndexError: x', file=sys.stderr); sys.exit(1)", "Index"),
    ],
)
def test_why_a_training_failed_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    started(monkeypatch, program)
    found = ShortRuns(3).train([], tmp_path / "round_1", never, lambda done: None)
    assert found.state == "failed"
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("raise SystemExit(130)", "an interrupt"),
    ],
)
def test_what_ended_a_training_from_outside_tells_nothing_of_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, how: str
) -> None:
    started(monkeypatch, program)
    with pytest.raises(QatlabError, match=f"round_1 was ended by {how}; the same command goes on"):
        ShortRuns(3).train([], tmp_path / "round_1", never, lambda done: None)


def test_a_training_ends_with_what_interrupts_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[Popen[str]] = []

    def start(given: Sequence[str], **streams: Any) -> Popen[str]:
        processes.append(Popen([sys.executable, "-c", "import time; time.sleep(600)"], text=True))
        return processes[0]

    def tell(done: int) -> None:
        if processes:
            raise KeyboardInterrupt

    monkeypatch.setattr(short_runs, "start_training", start)
    with pytest.raises(KeyboardInterrupt):
        ShortRuns(3).train([], tmp_path / "round_1", never, tell)
    assert processes[0].returncode == -15


def test_a_run_without_accuracy_is_refused(tmp_path: Path) -> None:
    files.write_json(tmp_path / "result.json", {"checkpoint": "best.ckpt", "best": {}})
    with pytest.raises(ConfigError, match="has no val/acc of its quantize phase"):
        ShortRuns(3).train([], tmp_path, never, lambda done: None)
