"""qatlab search trains what it finds: the smallest network that holds, and trials of Optuna."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from killable_runs import FORKED, KILL_SEARCH, Ended, start_forked
from mistakes import assert_refused, check

from qatlab.cli.main import run as run_command

Captured = pytest.CaptureFixture[str]
FLOAT = (
    *("quant=none", "schedule.clamp_epochs=0", "schedule.quantize_epochs=0"),
    *("schedule.float_epochs=1", "data.validation=1000", "+trainer.limit_train_batches=40"),
    *("+trainer.limit_test_batches=1", "trainer.accelerator=cpu"),
)
SEARCHED = ("quant=lsq_4bit", "images=64", "widths.activation=[8]")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The name of a float LeNet, trained on 40 batches of MNIST, whose newest run is ``first``."""
    place = tmp_path_factory.mktemp("lenet")
    folder = place / "lenet" / "first"
    ended = start_forked(place / "log", "train.py", *FLOAT, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.output
    (folder.parent / "latest").symlink_to("first")
    return folder.parent


def search(run: Path, output: Path, *words: str, **environment: str) -> Ended:
    """Search as a user does, but for the processes of trainings."""
    log = output.with_suffix(".log")
    given = ("search", str(run), "-o", str(output), *SEARCHED, *words)
    return start_forked(log, "qatlab", *given, **{FORKED: "1"}, **environment)


def record_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_suffix(".search.json").read_text())
    return found


def bits_of(found: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(own["part"], own["name"]): own["bits"] for own in found["bits"]}


def test_the_smallest_network_that_holds_is_found_and_survives_sigkill(
    lenet: Path, tmp_path: Path
) -> None:
    words = ("budget.max_drop=0.5", "rounds=2", "schedule.quantize_epochs=1")
    whole, killed = tmp_path / "whole" / "r.yaml", tmp_path / "killed" / "r.yaml"
    whole.parent.mkdir()
    killed.parent.mkdir()
    ended = search(lenet, whole, *words)
    assert ended.code == 0, ended.output
    assert "At most 2 rounds of 1 epoch each" in ended.output
    assert "% of 1,000 validation images right (standard error " in ended.output
    record = record_of(whole)
    chosen = record["found"][record["chosen"]]
    reference = json.loads((lenet / "first" / "result.json").read_text())["best"]["float"][
        "val/acc"
    ]
    assert record["reference"]["accuracy"] == reference
    assert record["max_drop"] == 0.5
    assert chosen["trained"]["accuracy"] >= reference - 0.005
    (widest,) = (own for own in record["uniform"] if {o["bits"] for o in own["bits"]} == {8})
    assert chosen["costs"]["size"] < 0.8 * widest["costs"]["size"]
    held = [o for o in record["found"] if o["trained"]["accuracy"] >= reference - 0.005]
    assert chosen["costs"]["size"] == min(own["costs"]["size"] for own in held)
    for own in record["found"]:  # each is a run as any other, with these bits
        run = whole.parent / own["trained"]["run"]
        layers = json.loads((run / "layers.json").read_text())
        assert {(o["part"], o["name"]): o["bits"] for o in layers["layers"]} == bits_of(own)
        assert layers["size_bytes"] == own["costs"]["size"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["init_weights"] == str(lenet / "first")  # also if there is a newer one later
        best = json.loads((run / "result.json").read_text())["best"]["quantize"]["val/acc"]
        assert own["trained"]["accuracy"] == best
        assert own["trained"]["accuracies"] == [pytest.approx(best, abs=1e-6)]
    assert whole.with_suffix(".search.svg").exists()
    rules = yaml.safe_load(whole.read_text())
    assert {rule["weight"]["bits"] for rule in rules.values() if "weight" in rule}

    assert search(lenet, killed, *words, **{KILL_SEARCH: "2"}).code == -9
    assert not killed.exists()
    assert record_of(killed)["found"][1]["trained"]["state"] == "begun"
    first = killed.with_suffix(".search") / "round_1" / "result.json"
    before = first.stat().st_mtime_ns
    ended = search(lenet, killed, *words)
    assert ended.code == 0, ended.output
    assert first.stat().st_mtime_ns == before
    second = json.loads((first.parents[1] / "round_2" / "result.json").read_text())
    assert second["resumed"]
    assert record_of(killed) == record
    assert killed.read_text().splitlines()[1:] == whole.read_text().splitlines()[1:]

    again = search(lenet, killed, *words)  # nothing is trained, and the answer is the same
    assert again.code == 0, again.output
    assert record_of(killed) == record
    # Another drop takes what is trained already.
    more = search(lenet, killed, "budget.max_drop=5", *words[1:])
    assert more.code == 0, more.output
    assert record_of(killed) == {**record, "max_drop": 5.0}
    assert first.stat().st_mtime_ns == before
    other = search(lenet, killed, *words, "minimize=bops")
    assert other.code == 1
    assert "of another search, with nothing where this one has minimize=bops" in other.output


def test_a_drop_that_cannot_be_reached_is_refused_with_what_is_missing(
    lenet: Path, tmp_path: Path
) -> None:
    output = tmp_path / "r.yaml"
    # One batch does not mend what two bits for all lose.
    words = ("budget.max_drop=0.1", "rounds=1", "widths.weight=[2]", "widths.activation=[2]")
    words = (*words, "schedule.quantize_epochs=1", "+trainer.limit_train_batches=1")
    ended = search(lenet, output, *words)
    assert ended.code == 1
    record = record_of(output)
    (found,) = record["found"]
    lost = 100 * (record["reference"]["accuracy"] - found["trained"]["accuracy"])
    assert (
        "Error: budget.max_drop=0.1: all widths that were trained lose more; the best, round 1 of "
        f"2.00 bits, loses {lost:.2f} points, {lost - 0.1:.2f} too many"
    ) in ended.output
    assert record["chosen"] is None
    assert not output.exists()


def test_a_training_that_cannot_begin_ends_the_search_with_its_sentence(
    lenet: Path, tmp_path: Path
) -> None:
    output = tmp_path / "r.yaml"
    ended = search(lenet, output, "budget.max_drop=1", "rounds=1", "solver.optimizer.lr=-1")
    assert ended.code == 1
    (line,) = (line for line in ended.output.splitlines() if line.startswith("Error: "))
    assert "round_1: solver.optimizer" in line
    assert record_of(output)["found"][0]["trained"]["state"] == "failed"


@pytest.mark.slow
def test_trials_keep_their_budget_and_survive_sigkill(lenet: Path, tmp_path: Path) -> None:
    words = ("method=trials", "trials=7", "budget.size=40kB", "widths.weight=[2,3,4,8]")
    words = (*words, "schedule.quantize_epochs=2", "+trainer.limit_train_batches=4")
    whole, killed = tmp_path / "whole" / "r.yaml", tmp_path / "killed" / "r.yaml"
    whole.parent.mkdir()
    killed.parent.mkdir()
    ended = search(lenet, whole, *words)
    assert ended.code == 0, ended.output
    assert "Tried first: what sums of losses find, then " in ended.output
    record = record_of(whole)
    found = record["found"]
    assert len(found) == 7
    bits = [bits_of(own) for own in found]
    assert all(own["costs"]["size"] <= 40 * 1024 for own in found)
    assert len({str(own) for own in bits}) == 7  # none twice
    # What sums of losses find is tried first, then one width for all, where it fits.
    output = tmp_path / "sums.yaml"
    assert search(lenet, output, "budget.size=40kB", "widths.weight=[2,3,4,8]").code == 0
    assert bits_of(record_of(output)["found"][0]) == bits[0]
    weights = [{b for (part, _), b in own.items() if part == "weight"} for own in bits]
    assert weights[1:4] == [{4}, {3}, {2}]
    states = [own["trained"]["state"] for own in found]
    assert states[:5] == ["done"] * 5
    for own in found:
        run = whole.parent / own["trained"]["run"]
        pruned = own["trained"]["state"] == "pruned"
        assert len(own["trained"]["accuracies"]) == (1 if pruned else 2)
        if pruned:
            earlier = [o["trained"] for o in found[: found.index(own)]]
            first = [o["accuracies"][0] for o in earlier if o["state"] == "done"]
            assert own["trained"]["accuracies"][0] < statistics.median(first)
        assert (run / "config.yaml").exists()
    done = [own for own in found if own["trained"]["state"] == "done"]
    best = max(own["trained"]["accuracy"] for own in done)
    assert found[record["chosen"]]["trained"]["accuracy"] == best

    # The number of trials may be another one when it goes on.
    fewer = tuple(word.replace("trials=7", "trials=6") for word in words)
    assert search(lenet, killed, *fewer, **{KILL_SEARCH: "6"}).code == -9
    assert len(record_of(killed)["found"]) == 6
    ended = search(lenet, killed, *words)
    assert ended.code == 0, ended.output
    assert record_of(killed) == record
    assert killed.read_text().splitlines()[1:] == whole.read_text().splitlines()[1:]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget.max_drop=-1"], "budget.max_drop=-1 is wrong. Accepted: points of accuracy"),
        (["budget.max_drop=0.2%"], "budget.max_drop='0.2%' is wrong. Accepted: points of accuracy"),
        (["budget.max_drop=little"], "budget.max_drop=little is wrong"),
        (["budget.max_drop=0.1,0.2"], "budget.max_drop='0.1,0.2' is wrong"),
        (["budget.max_drop=1", "budget.size=1k,2k"], "budget.size asks for a front of several"),
        (["budget.max_drop=1", "front=3"], "front asks for a front of several"),
        (["budget.max_drop=1", "method=trials"], "cannot be combined with method=trials"),
        (["budget.max_drop=1", "minimize=sise"], "Did you mean 'size'? Accepted: flash, ram,"),
        (["budget.max_drop=1", "rounds=0"], "rounds=0 is wrong. Accepted: a whole number above 0"),
        (["budget.max_drop=1", "trials=3"], "trials has no effect without method=trials."),
        (["budget.size=1k", "rounds=3"], "rounds has no effect without budget.max_drop=."),
        (["method=trials"], "there is no budget to search within. Accepted: budget.flash="),
        (["method=trails", "budget.size=1k"], "method=trails is wrong. Did you mean 'trials'?"),
        (
            ["budget.size=1k", "schedule.quantize_epochs=3"],
            "schedule.quantize_epochs=3 has no effect without budget.max_drop= or method=trials",
        ),
        (
            ["budget.max_drop=1", "+trainer.limit_val_batches=2"],
            "trainer.limit_val_batches would have trainings validated with other images",
        ),
        (["budget.max_drop=1", "data.validation=3"], "data is unknown"),
        (["budget.max_drop=1", "epochs=3"], "schedule.quantize_epochs"),
        (["budget.max_drop=1"], "missing is not the folder of a run"),
        (["budget.size=1k", "method=trials"], "missing is not the folder of a run"),
    ],
)
def test_a_wrong_word_is_refused(
    words: list[str],
    told: str,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert_refused(["search", "missing", *words], told, folder, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["schedule.quantize_epoch=3"], "schedule.quantize_epoch is unknown. Did you mean"),
        (["schedule.quantize_epochs=0"], "schedule.quantize_epochs=0 trains nothing"),
        (["budget.size=1k"], "budget.size=1,024 cannot be met: the smallest that can is"),
        (["--checkpoint", "last"], "--checkpoint=last cannot be combined with a search that"),
    ],
)
def test_what_no_training_takes_is_refused_and_leaves_nothing(
    words: list[str], told: str, lenet: Path, root: Path, capsys: Captured
) -> None:
    Path("data").symlink_to(root / "data")
    assert run_command(["search", str(lenet), "budget.max_drop=1", *SEARCHED, *words]) == 1
    message = capsys.readouterr().err
    check(message, (told,))
    assert not Path("outputs").exists()


def test_trainings_without_their_record_are_not_taken_for_those_of_a_search(
    lenet: Path, capsys: Captured
) -> None:
    Path("r.search/round_1").mkdir(parents=True)
    Path("r.search/round_1/config.yaml").write_text("")
    words = ["search", str(lenet), "budget.max_drop=1", *SEARCHED, "-o", "r.yaml"]
    assert run_command(words) == 1
    check(
        capsys.readouterr().err, ("r.search holds trainings of a search whose record, r.search.",)
    )
