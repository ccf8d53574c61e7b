from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from written_runs import layers, write_result, write_run

from qatlab.cli.main import run as run_command
from qatlab.report import runs
from qatlab.report.curves import METRICS
from qatlab.report.details import details
from qatlab.report.runs import find_runs, run_in

DOCS = Path(__file__).parents[3] / "docs"


def test_bits_and_method_are_those_of_most_inner_layers(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9, weight_bits=2, activation_bits=3, method="pact")
    run = find_runs(tmp_path)[0]
    assert (run.weight_bits, run.activation_bits, run.method) == ("2", "3", "PACT")
    # 1000 multiply-accumulates in each of the four layers, times weight bits, times input bits.
    assert run.bit_operations == 1000 * (8 * 8 + 2 * 3 + 2 * 3 + 8 * 3)
    assert run.tested_bytes == run.size_bytes == 576 * (8 + 2 + 2 + 8) // 8


def test_quantizers_of_two_methods_are_both_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    table = layers(4, 4)
    for row in table["layers"]:
        if row["part"] == "activation":
            row["quantizer"]["method"] = "LsqActivation"
    (tmp_path / "a/layers.json").write_text(json.dumps(table))
    assert find_runs(tmp_path)[0].method == "SAT/LSQ"


def test_a_clamped_network_is_no_4_bit_network(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9, phase="clamp")
    run = find_runs(tmp_path)[0]
    assert (run.weight_bits, run.activation_bits, run.method) == ("float", "float", "float")
    assert run.size_bytes == 576 * (8 + 4 + 4 + 8) // 8  # what it was to become
    assert run.tested_bytes == 576 * 4 * 4
    assert run.bit_operations == 1000 * (32 * 8 + 3 * 32 * 32)  # images are bytes


def test_a_result_is_enough(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "lenet", 1, top1=0.5)
    run = find_runs(tmp_path)[0]
    assert (run.state, run.top1, run.tested_bytes) == ("finished", 0.5, 31798)
    assert (run.weight_bits, run.method, run.bit_operations, run.command) == ("", "", None, "")
    shown = details(run)
    assert not any(shown[key] for key in ("config", "curves", "layers", "confusion"))
    assert run.overrides is None


def test_runs_without_a_result_are_found(tmp_path: Path) -> None:
    write_run(tmp_path / "killed", top1=0.9, seed=3)
    (tmp_path / "killed/result.json").unlink()
    # A job that fails while its configuration is read leaves an error, and what Hydra has written.
    hydra = tmp_path / "failed/.hydra"
    hydra.mkdir(parents=True)
    (tmp_path / "failed/error.txt").write_text("bits=77 is wrong.\n")
    name = "${hydra:runtime.choices.model}_${hydra:runtime.choices.quant}"
    (hydra / "config.yaml").write_text(yaml.safe_dump({"name": name, "seed": 2}))
    choices = {"model": "lenet", "quant": "sat_4bit"}
    (hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    failed, killed = find_runs(tmp_path)
    assert (failed.state, failed.reason, failed.top1) == ("failed", "bits=77 is wrong.", None)
    assert (failed.name, failed.seed) == ("lenet_sat_4bit", 2)
    assert (killed.state, killed.name, killed.seed) == ("unfinished", "lenet_sat", 3)
    assert killed.weight_bits == "4"  # the layers are written before the training


def test_the_command_gives_a_shell_the_same_overrides(tmp_path: Path) -> None:
    overrides = ["+quant.rules.mid={name: conv2, weight: {bits: 2}}", "name=it's $HOME", "~data.x"]
    write_run(tmp_path / "a", top1=0.9, overrides=overrides)
    command = find_runs(tmp_path)[0].command
    words = shlex.split(command)
    assert words[:3] == ["python", "train.py", "quant=sat_4bit"]
    assert [word for word in words if word in overrides] == overrides


def write_sources(run: Path, **places: str) -> None:
    sources = [{"provider": name, "path": path, "schema": "file"} for name, path in places.items()]
    runtime = {"cwd": "/home/me/mine", "config_sources": sources}
    (run / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": runtime}}))


@pytest.mark.parametrize(
    ("places", "start"),
    [
        ({"main": "/x/conf"}, "python train.py "),
        ({"project": "/home/me/mine/conf"}, "qatlab train "),
        ({"command-line": "/home/me/mine/my conf"}, "qatlab train --config-dir 'my conf' "),
        ({"command-line": "/else"}, "qatlab train --config-dir /else "),
    ],
)
def test_a_run_is_run_again_with_the_configurations_it_had(
    places: dict[str, str], start: str, tmp_path: Path
) -> None:
    write_run(tmp_path / "a", top1=0.9)
    write_sources(tmp_path / "a", **places)
    assert find_runs(tmp_path)[0].command.startswith(f"{start}quant=sat_4bit")


def test_the_commit_of_the_users_project_is_read(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    result = json.loads((tmp_path / "a/result.json").read_text())
    result["environment"]["project_commit"] = "fedc+"
    (tmp_path / "a/result.json").write_text(json.dumps(result))
    run = find_runs(tmp_path)[0]
    assert (run.commit[:4], run.project_commit) == ("0123", "fedc+")


def test_damaged_sources_of_configurations_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    text = "hydra: {runtime: {cwd: 3, config_sources: []}}  # provider: project"
    (tmp_path / "a/.hydra/hydra.yaml").write_text(text)
    run = find_runs(tmp_path)[0]
    assert run.state == "damaged"
    assert run.reason.endswith("hydra.yaml is damaged: cwd is 3, not a text")


def test_curves_of_a_run_have_its_phases_and_quantizers(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9, epochs=4, depth=3)
    shown = details(find_runs(tmp_path)[0])
    assert shown["curves"]["phases"] == [["clamp", 1, 2], ["quantize", 3, 4]]
    assert shown["curves"]["series"]["val/acc"] == [0.48, 0.73, 0.81333, 0.855]
    assert shown["quantizers"]["epochs"] == [3, 4]  # the clamp phase has no clip values
    assert shown["quantizers"]["rows"][1] == ["relu1", "alpha", [2.0412, 2.0309], [0.01, 0.01]]
    assert shown["confusion"] == [[45, 5], [0, 50]]


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    (tmp_path / "a/metrics.csv").write_text("epoch,phase,val/acc\n0,float,nan\n1,float,0.5\n")
    assert details(find_runs(tmp_path)[0])["curves"]["series"] == {"val/acc": [None, 0.5]}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", '{"name": '),
        ("result.json", '{"name": "a", "seed": "x", "test": {}, "size_bytes": 1}'),
        ("layers.json", "{"),
        ("layers.json", '{"layers": 3}'),
        ("layers.json", "[]"),
        (".hydra/overrides.yaml", "a: ["),
        (".hydra/overrides.yaml", "a: b"),
        ("metrics.csv", "epoch,phase,val/acc\n0,clamp\n"),
        ("metrics.csv", "epoch,phase,val/acc\n0,clamp,much\n"),
        ("config.yaml", b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str | bytes
) -> None:
    write_run(tmp_path / "runs/a", top1=0.9)
    path = tmp_path / "runs/a" / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run_command(["report", str(tmp_path / "runs"), "-o", str(tmp_path / "report.html")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert str(path) in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("*report*"))


def test_files_have_the_names_that_a_run_gives_them() -> None:
    from qatlab import sweep
    from qatlab.training import csv_logger

    assert (runs.ERROR, METRICS) == (sweep.ERROR, csv_logger.FILE_NAME)


def test_it_starts_without_what_trains(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    code = """if True:
        import sys
        from qatlab.cli.main import run
        assert run(["report", *sys.argv[1:]]) == 0
        heavy = {"torch", "pytorch_lightning", "hydra", "omegaconf"} & sys.modules.keys()
        assert not heavy, heavy
    """
    page = tmp_path / "report.html"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), "-o", str(page)], check=True)
    assert page.exists()


def test_names_of_classes_are_read_where_they_are_recorded(tmp_path: Path) -> None:
    write_run(tmp_path / "a", top1=0.9)
    (run,) = find_runs(tmp_path)
    assert run.class_names == details(run)["classNames"] == ("cat", "<i>dog</i>")
    write_result(tmp_path / "a", "older", 1, top1=0.5, confusion=[[1, 0], [0, 1]])
    (run,) = find_runs(tmp_path)
    assert (run.state, run.classes, run.class_names) == ("finished", 2, ())


@pytest.mark.parametrize("names", [["cat"], "cat", ["cat", 1], ["cat", "x" * 301]])
def test_names_that_do_not_fit_the_matrix_are_damage(tmp_path: Path, names: Any) -> None:
    write_run(tmp_path / "a", top1=0.9, class_names=names)
    (run,) = find_runs(tmp_path)
    assert run.state == "damaged"
    assert "class_names" in run.reason


@pytest.mark.parametrize("folder", sorted((DOCS / "runs").glob("*/*")), ids=lambda it: it.name)
def test_committed_runs_have_all_that_a_page_shows(folder: Path) -> None:
    run = run_in(folder, DOCS)
    assert run.state == "finished"
    assert run.method in ("SAT", "LSQ", "PACT", "float")
    assert run.weight_bits
    assert run.bit_operations
    digits = folder.parent.name.startswith("lenet_mnist")
    assert run.class_names[:2] == (("0", "1") if digits else ("airplane", "automobile"))
    named = re.search(r"_(\d)bit", run.name)
    if named and run.phase == "quantize":
        assert run.weight_bits == named[1]


@pytest.mark.parametrize(
    ("widths", "told"), [((2, 4), "2"), ((2, 4, 4), "4"), ((2, 4, 8), "mixed"), ((2, 2, 4, 8), "2")]
)
def test_bits_that_no_half_of_the_layers_shares_are_mixed(
    tmp_path: Path, widths: tuple[int, ...], told: str
) -> None:
    write_run(tmp_path / "a", top1=0.9, depth=len(widths) + 2)
    table = json.loads((tmp_path / "a/layers.json").read_text())
    inner = [row for row in table["layers"] if row["part"] == "weight"][1:-1]
    for row, bits in zip(inner, widths, strict=True):
        row["bits"], row["input_bits"] = bits, 10 - bits
    (tmp_path / "a/layers.json").write_text(json.dumps(table))
    (run,) = find_runs(tmp_path)
    inverse = {"2": "8", "4": "6", "mixed": "mixed"}
    assert (run.weight_bits, run.activation_bits) == (told, inverse[told])
