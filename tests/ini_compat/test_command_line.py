"""The four commands as a new user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import projects
import pytest
import yaml
from projects import FC, project

from ini_compat import __main__
from ini_compat.__main__ import main

Run = Callable[..., "Said"]
LOSS = FC + "NoBias=1\n"  # has no effect there
WRONG = FC.replace("Type=Fc", "Type=Fcc")


class Said:
    """Exit code, standard output and standard error of a command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder with model.ini, lost.ini and wrong.ini."""
    monkeypatch.chdir(tmp_path)
    for name, cells in (("model", FC), ("lost", LOSS), ("wrong", WRONG)):
        Path(f"{name}.ini").write_text(project(cells))

    def said(*words: str) -> Said:
        try:
            code = main(words)
        except SystemExit as exit:  # of argparse
            code = int(str(exit.code))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    return said


# -- check ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("model", 0), ("lost", 1), ("wrong", 2)])
def test_exit_codes_of_check(run: Run, name: str, code: int) -> None:
    said = run("check", f"{name}.ini")
    assert said.code == code
    assert said.out.startswith("cell  type")
    assert ("error: wrong.ini:10: [fc] Type=Fcc is not a cell." in said.err) == (code == 2)
    assert ("[fc] NoBias ignored" in said.out) == (code == 1)
    assert not list(Path().glob("*.yaml"))


@pytest.mark.parametrize(("name", "code"), [("model", 0), ("lost", 1), ("wrong", 2), ("none", 2)])
def test_json_is_valid(run: Run, name: str, code: int) -> None:
    said = run("check", "--json", f"{name}.ini")
    assert said.code == code
    read = json.loads(said.out)
    assert list(read) == ["file", "cells", "losses", "problems", "notices"]
    assert (len(read["losses"]), bool(read["problems"])) == (int(code == 1), code == 2)


def test_check_tells_what_convert_would_refuse(run: Run) -> None:
    cells = FC + "QWeight=LSQ\n[fc2]\nInput=fc\nType=Fc\nNbOutputs=10\nQWeight=SAT\n"
    Path("model.ini").write_text(project(cells, target="[fc2.Target]\n"))
    for command in ("check", "convert"):
        said = run(command, "model.ini")
        assert said.code == 2
        assert "error: model.ini:13: [fc2] has SAT and [fc] has LSQ for weights." in said.err


def test_the_table_has_all_cells(run: Run) -> None:
    unread = "[unread]\nInput=sp\nType=Fc\nNbOutputs=10\n"
    Path("model.ini").write_text(project(FC + unread))
    for command in (("check",), ("convert", "-o", "x.yaml")):
        said = run(*command, "model.ini")
        assert "2 cells, 15,700 parameters" in said.out
        assert "[unread] ignored: no target depends on it" in said.out


def test_all_problems_are_reported(run: Run) -> None:
    Path("wrong.ini").write_text(project(WRONG + FC.replace("[fc]", "[a]").replace("10", "ten")))
    for command in (
        *(("check",), ("convert",), ("weights", ".", "-o", "x")),
        ("export-weights", "x", "-o", "y"),
    ):
        said = run(*command, "wrong.ini")
        assert said.code == 2
        assert said.err.count("error: wrong.ini:") == 2


# -- convert ----------------------------------------------------------------------------------


def test_convert_writes_where_train_py_looks(run: Run) -> None:
    Path("conf/experiment").mkdir(parents=True)
    said = run("convert", "model.ini")
    assert said.code == 0
    assert said.out.splitlines()[-2:] == [
        "experiment: conf/experiment/model.yaml",
        "train it: python train.py experiment=model",
    ]
    content = yaml.safe_load(Path("conf/experiment/model.yaml").read_text())
    assert content["name"] == "model"
    assert run("convert", "lost.ini").code == 0  # what is lost is told, and stands in the file
    assert "NoBias ignored" in Path("conf/experiment/lost.yaml").read_text()


def test_convert_elsewhere(run: Run) -> None:
    said = run("convert", "model.ini", "-o", "x.yaml")
    assert said.out.splitlines()[-1] == "experiment: x.yaml"
    text = Path("x.yaml").read_text()
    command = "python -m ini_compat convert model.ini -o x.yaml"
    assert f"# Imported from model.ini by: {command}\n" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("model.ini",),
            "there is no folder conf/experiment here: say with -o where the YAML goes",
        ),
        (("model.ini", "-o", "x"), "-o x does not end in .yaml"),
        (("model.ini", "-o", "x.yml"), "-o x.yml does not end in .yaml"),
        (("model.ini", "-o", "no/x.yaml"), "-o no/x.yaml: its folder does not exist"),
        (("model.ini", "-o", "folder.yaml"), "-o folder.yaml is a folder"),
        (("none.ini", "-o", "x.yaml"), "none.ini"),
        ((".", "-o", "x.yaml"), "."),
        (("binary.ini", "-o", "x.yaml"), "binary.ini"),
        (("", "-o", "x.yaml"), ""),
        (("model.ini", "-o", "x.yaml", "--weights", "no"), "no is not a folder of weight files"),
        (("model.ini", "-o", "x.yaml", "--weights", "."), ". lacks 2 of the network's files"),
        (("model.ini", "-o", "x.yaml", "--data", "no"), "--data no is not a folder"),
        (("model.ini", "-D", "LR"), "-D LR is wrong. Accepted: -D VAR=value"),
        (("model.ini", "-D", "=1"), "-D =1 is wrong"),
        (("model.ini", "-D", "$=1"), "-D $=1 is wrong"),
        (("model.ini", "-D", "LR=1"), "-D LR: the file does not define $LR"),
    ],
)
def test_mistakes(run: Run, words: tuple[str, ...], told: str) -> None:
    Path("folder.yaml").mkdir()
    Path("binary.ini").write_bytes(b"\xff\xfe\x00\x01" * 99)
    said = run("convert", *words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert told in said.err
    left = {path.name for path in Path().iterdir()}
    assert left == {"folder.yaml", "binary.ini", "model.ini", "lost.ini", "wrong.ini"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "required: command"),
        (("convrt",), "invalid choice: 'convrt'"),
        (("convert",), "required: ini"),
        (("convert", "model.ini", "--images", "0"), "--images: 0 is wrong. Accepted: 1 or more"),
        (("convert", "model.ini", "--epochs", "ten"), "--epochs: ten is wrong. Accepted: 1 or"),
        (("convert", "model.ini", "--epochs", "-1"), "epochs"),
        (("convert", "model.ini", "--jason"), "unrecognized arguments: --jason"),
        (("weights", "folder", "model.ini"), "required: -o/--output"),
        (("export-weights", "x.safetensors", "model.ini"), "required: -o/--output"),
    ],
)
def test_wrong_words(run: Run, words: tuple[str, ...], told: str) -> None:
    said = run(*words)
    assert said.code == 2
    assert told in said.err
    assert said.err.startswith("usage: python -m ini_compat")


@pytest.mark.parametrize("words", [(), ("convert",), ("check",), ("weights",), ("export-weights",)])
def test_help(run: Run, words: tuple[str, ...]) -> None:
    said = run(*words, "--help")
    assert said.code == 0
    assert f"usage: {' '.join(['python -m ini_compat', *words])}" in said.out
    if words:
        assert all(option in said.out for option in ("--define VAR=value", "--onnx FILE", "ini"))


def test_a_file_without_end(run: Run) -> None:
    os.mkfifo("endless.ini")
    said = run("check", "endless.ini")
    assert said.code == 2
    assert "endless.ini" in said.err


def test_a_file_that_cannot_be_read(run: Run) -> None:
    Path("model.ini").chmod(0)
    if os.access("model.ini", os.R_OK):
        pytest.skip("this user may read everything")
    said = run("check", "model.ini")
    assert said.code == 2
    assert "model.ini" in said.err


def test_a_folder_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", refuse)  # the last moment
    said = run("convert", "model.ini", "-o", "x.yaml")
    assert said.code == 2
    assert said.err == "error: cannot write x.yaml: Permission denied\n"
    assert not list(Path().glob(".x*"))
    assert not Path("x.yaml").exists()


def test_a_file_that_was_changed_is_kept(run: Run) -> None:
    words = ("convert", "model.ini", "-o", "x.yaml")
    assert run(*words).code == 0
    assert run(*words).code == 0  # the same again
    text = Path("x.yaml").read_text()
    Path("x.yaml").write_text("# a remark\n" + text)
    assert run(*words).code == 0
    Path("x.yaml").write_text(text.replace("name: model", "name: mine"))
    said = run(*words)
    assert said.code == 2
    assert "x.yaml exists and says something else: --force replaces it" in said.err
    assert "name: mine" in Path("x.yaml").read_text()
    assert run(*words, "--force").code == 0
    assert Path("x.yaml").read_text().splitlines()[2:] == text.splitlines()[2:]
    Path("x.yaml").write_bytes(b"\xff\xfe")
    assert run(*words).code == 2
    assert sorted(path.name for path in Path().glob("*x.yaml*")) == ["x.yaml"]


def test_weights_are_kept_with_the_file_that_was_changed(run: Run) -> None:
    Path("weights").mkdir()
    Path("weights/fc_weights.syntxt").write_text(" ".join(["0.5"] * 7840))
    Path("weights/fc_biases.syntxt").write_text("0.25\n" * 10)
    words = ("convert", "model.ini", "-o", "x.yaml", "--weights", "weights")
    said = run(*words)
    assert said.code == 0
    assert "weights: x.safetensors, 2 tensors" in said.out
    assert yaml.safe_load(Path("x.yaml").read_text())["init_weights"] == "x.safetensors"
    Path("x.yaml").write_text("name: mine\n")
    Path("x.safetensors").write_text("mine")
    assert run(*words).code == 2
    assert Path("x.safetensors").read_text() == "mine"


def test_strict(run: Run) -> None:
    said = run("convert", "lost.ini", "-o", "x.yaml", "--strict")
    assert said.code == 1
    assert "[fc] NoBias ignored" in said.out
    assert said.err == "error: --strict: nothing is written\n"
    assert not Path("x.yaml").exists()
    assert run("convert", "model.ini", "-o", "x.yaml", "--strict").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("-D", "LR=0.5"),
        ("-DLR=0.5",),
        ("--define", "LR=0.5"),
        ("-D", "$LR=0.5"),
        ("--define=LR=0.5",),
    ],
)
def test_definitions(run: Run, words: tuple[str, ...]) -> None:
    cells = FC + "ConfigSection=c\n[c]\nSolvers.LearningRate=${LR}\n"
    Path("model.ini").write_text("$LR=0.1\n$BATCH=7\n" + project(cells))
    assert run("convert", "model.ini", "-o", "x.yaml", *words).code == 0
    content = yaml.safe_load(Path("x.yaml").read_text())
    assert content["solver"]["groups"]["main"]["lr"] == 0.5
    both = ("-D", "LR=0.25", "-D", "BATCH=9", *words)
    assert run("convert", "model.ini", "-o", "x.yaml", "--force", *both).code == 0
    content = yaml.safe_load(Path("x.yaml").read_text())
    assert content["solver"]["groups"]["main"]["lr"] == 0.5  # the last one


def test_epochs_and_images(run: Run) -> None:
    Path("model.ini").write_text(
        project(
            f"{FC}ConfigSection=c\n[c]\nSolvers.LearningRatePolicy=StepDecay\n"
            "Solvers.LearningRateStepSize=500\n"
        )
    )
    words = ("convert", "model.ini", "-o", "x.yaml", "--epochs", "7", "--images", "1000")
    assert run(*words).code == 0
    content = yaml.safe_load(Path("x.yaml").read_text())
    assert content["schedule"]["float_epochs"] == 7
    assert content["solver"]["groups"]["main"]["lr_policy"]["every"] == 0.5


def test_statistics_are_measured_with_data(run: Run, root: Path) -> None:
    if not (root / "data/MNIST/raw").is_dir():
        pytest.skip("data/MNIST is not here")
    text = (
        "[sp.StimuliData]\nApplyTo=LearnOnly\n[sp.Transformation]\nType=RangeAffineTransformation\n"
        "FirstOperator=Minus\nFirstValue=[sp.StimuliData]_GlobalValue.mean\n"
    )
    Path("model.ini").write_text(project(sp=projects.SP + text))
    assert run("check", "model.ini").code == 1
    assert run("convert", "model.ini", "-o", "x.yaml", "--data", str(root / "data")).code == 0
    content = yaml.safe_load(Path("x.yaml").read_text())
    value = content["data"]["transforms"]["range_affine"]["first_value"]
    assert value == pytest.approx(33.3184, abs=1e-4)  # as in N2D2's documentation


@pytest.mark.parametrize(
    "name", ["1e5.ini", "null.ini", "a b.ini", "-x.ini", "网络.ini", "x\n.ini"]
)
def test_names_of_files(run: Run, name: str) -> None:
    Path("model.ini").rename(name)
    said = run("convert", "-o", "x.yaml", "--", name)
    assert said.code == 0
    content = yaml.safe_load(Path("x.yaml").read_text())
    assert isinstance(content["name"], str)
    assert content["name"].strip() == content["name"] != ""
    assert "/" not in content["name"]


# -- weights ----------------------------------------------------------------------------------


def test_weights_there_and_back(run: Run) -> None:
    Path("in").mkdir()
    numbers = [f"{(i % 97 - 48) / 64}" for i in range(7840)]
    rows = [" ".join(numbers[i : i + 784]) + " " for i in range(0, 7840, 784)]
    Path("in/fc_weights.syntxt").write_text("\n".join(rows) + "\n")
    Path("in/fc_biases.syntxt").write_text("0.25\n" * 10)
    said = run("weights", "in", "model.ini", "-o", "x.safetensors")
    assert (said.code, said.out) == (0, "weights: x.safetensors, 2 tensors\n")
    said = run("export-weights", "x.safetensors", "model.ini", "-o", "out")
    assert (said.code, said.out) == (0, "files: out\n")
    for name in ("fc_weights", "fc_biases"):
        there, back = (Path(folder, f"{name}.syntxt").read_text() for folder in ("in", "out"))
        assert [float(w) for w in there.split()] == [float(w) for w in back.split()]
        assert len(there.splitlines()) == len(back.splitlines())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("weights", "no", "model.ini", "-o", "x.safetensors"),
            "no is not a folder of weight files",
        ),
        (("weights", ".", "model.ini", "-o", "x.safetensors"), ". lacks 2 of the network's files"),
        (("weights", ".", "none.ini", "-o", "x.safetensors"), "none.ini"),
        (("export-weights", "no", "model.ini", "-o", "out"), "no does not exist"),
        (("export-weights", "model.ini", "model.ini", "-o", "out"), "model.ini is damaged or no"),
    ],
)
def test_mistakes_with_weights(run: Run, words: tuple[str, ...], told: str) -> None:
    said = run(*words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert told in said.err
    assert not Path("x.safetensors").exists()
    assert not Path("out").exists()


# -- as a process -----------------------------------------------------------------------------


def process(*words: str, root: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ini_compat", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        **options,  # type: ignore[call-overload]
    )


def test_as_a_module(run: Run, root: Path) -> None:
    with process("check", "lost.ini", root=root) as child:
        out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "1 cells, 7,850 parameters" in out
    assert err == ""


def test_torch_is_not_needed(root: Path) -> None:
    code = "import ini_compat.__main__, sys; print({'torch', 'qatlab', 'onnx'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "set()\n"


def test_output_that_nobody_reads_to_its_end(run: Run, root: Path) -> None:
    Path("deep.ini").write_text(projects.deep(100))  # more than a pipe holds
    for words, code in ((["check", "--json"], 1), (["convert", "-ox.yaml"], 0)):
        with process(*words, "deep.ini", root=root) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.read(1)
            child.stdout.close()
            assert child.stderr.read() == ""
        assert child.returncode == code
    assert yaml.safe_load(Path("x.yaml").read_text())["name"] == "deep"


def test_interrupted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "understand", interrupted)
    said = run("check", "model.ini")
    assert (said.code, said.err) == (130, "error: interrupted\n")


def test_the_script(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["qatlab-ini", "check", "lost.ini"])
    with pytest.raises(SystemExit) as caught:
        __main__.script()
    assert caught.value.code == 1


def test_the_script_is_installed(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    assert 'qatlab-ini = "ini_compat.__main__:script"' in text
