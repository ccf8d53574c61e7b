"""A run's bits are searched within budgets, and trained: qatlab search, rules=."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from killable_runs import start_forked
from mistakes import FINISHED, Told, assert_refused

from qatlab.cli.main import run as run_command
from qatlab.deploy.targets import missing_for

Captured = pytest.CaptureFixture[str]
WIDTHS = ["widths.weight=[2,4,8]", "widths.activation=[4,8]", "images=64"]


def test_the_rules_of_a_search_are_trained_and_keep_the_budget(
    finished: Path, tmp_path: Path, capsys: Captured
) -> None:
    rules = tmp_path / "found.yaml"
    words = [str(finished), "-o", str(rules), "budget.size=24kB", "budget.bops=15e6", *WIDTHS]
    assert run_command(["search", *words]) == 0
    told = capsys.readouterr().out
    assert "size: " in told
    assert "of 24,576" in told
    assert f"rules={rules} schedule=quantize_only init_weights={finished}" in told
    record = json.loads(rules.with_suffix(".search.json").read_text())
    (found,) = record["found"]
    assert found["costs"]["size"] <= 24576
    assert found["costs"]["bops"] <= 15e6
    assert len(record["uniform"]) == 3
    bits = {(own["part"], own["name"]): own["bits"] for own in found["bits"]}
    assert len(set(bits.values())) > 1  # or nothing was chosen

    folder = tmp_path / "run"
    ended = start_forked(
        tmp_path / "log",
        "train.py",
        *FINISHED,
        f"+rules={rules}",
        "schedule=quantize_only",
        "schedule.quantize_epochs=1",
        f"init_weights={finished}",
        f"hydra.run.dir={folder}",
    )
    assert ended.code == 0, ended.output
    layers = json.loads((folder / "layers.json").read_text())
    assert {(own["part"], own["name"]): own["bits"] for own in layers["layers"]} == bits
    assert layers["size_bytes"] == found["costs"]["size"]
    assert layers["bit_operations"] == found["costs"]["bops"]
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["rules"] is None  # it is whole without the file
    assert set(yaml.safe_load(rules.read_text())) <= stored["quant"]["rules"].keys()


@pytest.mark.skipif(bool(missing_for()), reason=f"not installed: {', '.join(missing_for())}")
def test_the_program_of_what_was_found_takes_what_was_said(
    finished: Path, tmp_path: Path, capsys: Captured
) -> None:
    rules = tmp_path / "found.yaml"
    budgets = ["budget.flash=30k", "budget.ram=4k"]
    assert run_command(["search", str(finished), *budgets, *WIDTHS, "-o", str(rules)]) == 0
    (found,) = json.loads(rules.with_suffix(".search.json").read_text())["found"]
    assert 25000 < found["costs"]["flash"] <= 30 * 1024
    assert found["costs"]["ram"] <= 4096
    told = capsys.readouterr().out
    assert "(weight) takes" in told
    assert "target=c" in told


def test_a_front_has_a_row_for_each_budget(
    finished: Path, tmp_path: Path, capsys: Captured
) -> None:
    rules = tmp_path / "front.yaml"
    words = [str(finished), "front=4", "budget.mean_bits=6", *WIDTHS, "-o", str(rules)]
    assert run_command(["search", *words]) == 0
    found = json.loads(rules.with_suffix(".search.json").read_text())["found"]
    limits = [own["budgets"]["mean_bits"] for own in found]
    assert limits == pytest.approx([2, 2 + 4 / 3, 2 + 8 / 3, 6])
    losses = [own["predicted_loss"] for own in found]
    assert losses == sorted(losses, reverse=True)
    assert all(own["costs"]["mean_bits"] <= own["budgets"]["mean_bits"] + 1e-9 for own in found)
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == [
        f"front_{i}.yaml" for i in range(1, 5)
    ]


def test_widths_are_kept_by_rules(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    rules = tmp_path / "found.yaml"
    kept = "+widths.rules.first={name: conv1, weight: {bits: 8}}"
    words = [str(finished), "budget.mean_bits=3", kept, *WIDTHS, "-o", str(rules)]
    assert run_command(["search", *words]) == 0
    (found,) = json.loads(rules.with_suffix(".search.json").read_text())["found"]
    bits = {(own["part"], own["name"]): own["bits"] for own in found["bits"]}
    assert bits["weight", "conv1"] == 8


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget.flsh=32k"], "budget.flsh"),
        (["budget.flash=big"], "budget.flash=big is wrong. Accepted: a size: 65536, 256k"),
        (["budget.bops=-1"], "budget.bops='-1' is wrong. Accepted: a number above 0"),
        ([], "there is no budget to search within. Accepted: budget.flash=, budget.ram="),
        (["budget.size=1k,2k", "budget.ram=1k,2k"], "budget.ram has several numbers"),
        (
            ["budget.size=1k", "estimate=guess"],
            "estimate=guess is wrong. Accepted: measured, second_order",
        ),
        (["budget.size=1k", "images=0"], "images=0 is wrong"),
        (["budget.size"], "budget.size has no value"),
        (["budget=3"], "budget=3 names a group: give one of its keys, such as budget.flash=32kB"),
        (["budget.size=1k", "widths.tied=[[]]"], "widths.tied=[[]] is wrong"),
        (["budget.size=1k", "widths.tied=[a,b]"], "a list of lists of names"),
        (["budget.size=1k", "-o", "rules.txt"], "a file that ends in .yaml"),
        (["budget.size=1k"], "missing is not the folder of a run"),
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
        (
            ["budget.size=10k"],
            "budget.size=10,240 cannot be met: the smallest that can is 15,936 bytes",
        ),
        (["budget.size=1M", "widths.weight=[0]"], "widths.weight=[0]"),
        (["budget.size=1M", "target=cortex-m3"], "target=cortex-m3 has no effect without budget."),
        (["budget.flash=1M", "target=avr"], "target=avr is wrong. Accepted: cortex-m0plus"),
        (["budget.size=1M", "quant=lsq_5bit"], "quant=lsq_5bit is wrong. Did you mean 'lsq_8bit'?"),
        (
            ["budget.size=1M", "+widths.rules.x={name: convv1, weight: {bits: 4}}"],
            "widths.rules.x (weight) matches no layer: name='convv1'. Did you mean name='conv1'?",
        ),
        (["budget.size=1M", "+widths.rules.x={name: conv1}"], "widths.rules.x changes nothing"),
        (["budget.size=1M", "-o", "folder.yaml"], "folder.yaml is wrong. Accepted: a file; there"),
        (["budget.size=1M", "widths.tied=[[conv1,cnv2]]"], "conv2"),
    ],
)
def test_what_a_run_has_not_is_refused(
    words: list[str], told: str, finished: Path, capsys: Captured
) -> None:
    Path("folder.yaml").mkdir()
    assert run_command(["search", str(finished), *words, *WIDTHS[1:]]) == 1
    assert told in capsys.readouterr().err


def test_equal_budgets_give_equal_points(finished: Path, tmp_path: Path, capsys: Captured) -> None:
    words = [str(finished), "budget.size=24k,24k", "budget.bops=1e9", *WIDTHS]
    assert run_command(["search", *words, "-o", str(tmp_path / "f.yaml")]) == 0
    one, other = json.loads((tmp_path / "f.search.json").read_text())["found"]
    assert one == other
    assert (tmp_path / "f.search.svg").exists()


def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_measured(
    finished: Path, capsys: Captured
) -> None:
    assert run_command(["search", str(finished), "budget.size=1k"]) == 1
    told = capsys.readouterr()
    assert "cannot be met" in told.err
    assert "losses" not in told.out


def test_outputs_that_are_no_classes_are_searched(tmp_path: Path, capsys: Captured) -> None:
    words = ["model=autoencoder", "loss=reconstruction", "quant=sat_8bit"]
    run = tmp_path / "run"
    ended = start_forked(tmp_path / "log", "train.py", *FINISHED, *words, f"hydra.run.dir={run}")
    assert ended.code == 0, ended.output
    widths = ["widths.weight=[8]", "widths.activation=[8]", "images=8"]
    assert run_command(["search", str(run), "budget.ram=1M", *widths]) == 0
    told = capsys.readouterr().out
    assert "All of them together: " in told
    assert "right" not in told


def test_a_file_of_rules_refers_to_nothing(command: Told, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text('mine: {name: "${oc.env:PATH}", weight: {bits: 4}}\n')
    told = command(*FINISHED, f"rules={file}")
    assert "quant.rules.mine (weight) matches no layer: name='${oc.env:PATH}'" in told


def test_a_file_of_rules_that_is_none_is_refused(command: Told, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("first: 4\n")
    told = command(*FINISHED, f"rules={file}")
    assert f"rules={file}: first is no rule. Accepted: a mapping" in told
    assert "no such file" in command(*FINISHED, "rules=missing.yaml").lower()
