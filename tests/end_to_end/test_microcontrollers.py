"""A run becomes a folder in C, a library for Arduino, and a program on a Cortex-M in QEMU."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mistakes import assert_refused

from qatlab.cli.main import run as run_command
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.deploy.targets import HostProgram, missing_for
from qatlab.run.loading import load_run

Captured = pytest.CaptureFixture[str]
takes_qemu = pytest.mark.skipif(
    bool(missing_for()), reason=f"not installed: {', '.join(missing_for())}"
)
takes_make = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("cc", "make")), reason="there is no cc or no make"
)


@pytest.fixture(scope="module")
def run(finished: Path) -> Path:
    return finished


@takes_make
@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_a_folder_is_built_and_classifies(
    run: Path, tmp_path: Path, capsys: Captured, layout: str
) -> None:
    folder = tmp_path / "net"
    words = ["export", str(run), "--format", "c", "-o", str(folder), "--layout", layout]
    assert run_command(words) == 0
    told = capsys.readouterr().out
    assert re.search(r"pool1 .* largest of 2x2 codes +. 0 +. [\d,]+ +. 0 +.", told)
    assert f"Build it: make -C {folder}." in told
    assert "0 of 226 channels rescale in 64 bits" in told
    assert sorted(os.listdir(folder)) == [
        *("Makefile", "README.md", "main.c", "memory.svg", "model.c", "model.h"),
    ]
    flags = "-std=c99 -O1 -Wall -Wextra -Wconversion -Wshadow -Wpedantic -Werror"
    subprocess.run(["make", "-C", str(folder), f"CFLAGS={flags}"], check=True, capture_output=True)
    built = load_run(run)
    built.data.setup("test")
    images, _ = next(iter(built.data.test_dataloader()))
    pixels = bytes_of(images, pixel_codes(built.data))
    pixels = pixels if layout == "chw" else pixels.permute(0, 2, 3, 1)
    (folder / "images").write_bytes(pixels.contiguous().numpy().tobytes())
    done = subprocess.run(
        ["./model", "images"], cwd=folder, capture_output=True, text=True, check=True
    )
    found = [int(line.split("\t")[0]) for line in done.stdout.splitlines()]
    assert found == [int(line) for line in _classes_of_one_file(run, images, tmp_path)]
    header = (folder / "model.h").read_text()
    assert "#define QATLAB_IMAGE_STEP {0.00392156862745098}" in header
    assert "#define QATLAB_IMAGE_OFFSET {0.0}" in header
    if shutil.which("c++") is not None:
        caller = '#include "model.h"\nint main() { return QATLAB_CLASSES == 10 ? 0 : 1; }\n'
        (folder / "caller.cpp").write_text(caller)
        subprocess.run(
            ["c++", "-Wall", "-Wextra", "-Werror", "caller.cpp", "-o", "caller"],
            cwd=folder,
            check=True,
        )
        subprocess.run([folder / "caller"], check=True)


@takes_make
def test_two_networks_are_parts_of_one_program(run: Path, tmp_path: Path) -> None:
    """Each has the name of its files, functions and macros; classes keep theirs."""
    for prefix in ("first", "kws_2"):
        words = ["export", str(run), "--format", "c", "-o", str(tmp_path / prefix)]
        assert run_command([*words, "--prefix", prefix]) == 0
        assert {f"{prefix}.c", f"{prefix}.h"} <= set(os.listdir(tmp_path / prefix))
        flags = "CFLAGS=-std=c99 -Wall -Wextra -Werror"
        command = ["make", "-C", str(tmp_path / prefix), flags]
        subprocess.run(command, check=True, capture_output=True)
        text = "".join((tmp_path / prefix / f"{prefix}.{end}").read_text() for end in "ch")
        assert not re.search("qatlab_|QATLAB_", text)
    (tmp_path / "both.c").write_text(
        '#include "first/first.h"\n#include "kws_2/kws_2.h"\n'
        "static uint8_t image[FIRST_IMAGE_BYTES];\n"
        "static first_number one[FIRST_CLASSES];\nstatic kws_2_number two[KWS_2_CLASSES];\n"
        "int main(void) { return first_infer(image, one) == kws_2_infer(image, two) ? 0 : 1; }\n"
    )
    files = ["both.c", "first/first.c", "kws_2/kws_2.c"]
    subprocess.run(["cc", "-std=c99", *files, "-o", "both"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "both"], check=True)


@takes_make
@takes_qemu
@pytest.mark.parametrize(("core", "instruction"), [("cortex-m4", "smlad"), ("cortex-m55", "vmla")])
def test_a_library_for_a_core_uses_what_it_has(
    run: Path, tmp_path: Path, core: str, instruction: str
) -> None:
    assert run_command(["export", str(run), "--format", "c", "-o", str(tmp_path / "net")]) == 0
    command = ["make", "-C", str(tmp_path / "net"), "library", f"CORE={core}"]
    subprocess.run(command, check=True, capture_output=True)
    command = ["arm-none-eabi-objdump", "-d", str(tmp_path / f"net/model-{core}.o")]
    if core == "cortex-m55":
        command += ["-m", "armv8.1-m.main"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert told.count(instruction) > 20


def _classes_of_one_file(run: Path, images: object, folder: Path) -> list[str]:
    assert run_command(["export", str(run), "--format", "c", "-o", str(folder / "one.c")]) == 0
    subprocess.run(["cc", "-std=c99", "one.c", "-o", "one"], cwd=folder, check=True)
    pixels = bytes_of(images, pixel_codes(load_run(run).data))  # type: ignore[arg-type]
    (folder / "one.raw").write_bytes(pixels.numpy().tobytes())
    done = subprocess.run(
        ["./one", "one.raw"], cwd=folder, capture_output=True, text=True, check=True
    )
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def test_a_library_for_arduino_has_a_sketch(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "My net-1"
    assert run_command(["export", str(run), "--format", "arduino", "-o", str(folder)]) == 0
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("library.properties", "src/My_net_1.h", "src/My_net_1.c"),
        "examples/Classify/Classify.ino",
    }
    properties = dict(
        line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines()
    )
    assert properties["name"] == "My_net_1"
    assert {"version", "author", "sentence", "category", "architectures"} <= properties.keys()
    assert "#include <My_net_1.h>" in (folder / "examples/Classify/Classify.ino").read_text()
    if shutil.which("cc") is not None:
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-c", "src/My_net_1.c"]
        subprocess.run(["cc", *flags, "-o", "x.o"], cwd=folder, check=True)


@takes_qemu
def test_a_program_on_a_core_answers_as_integers_do(
    run: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "found.json"
    words = ["verify", str(run), "--target", "cortex-m4", "--images", "20", "--json", str(file)]
    assert run_command(words) == 0
    told = capsys.readouterr().out
    found = re.search(
        r"cortex-m4 in QEMU: all outputs are those of integers, to the last bit\. Flash ([\d,]+) "
        r"bytes with code, RAM ([\d,]+) and ([\d,]+) of stack; ([\d,]+) instructions",
        told,
    )
    assert found
    flash, ram, stack, instructions = (int(word.replace(",", "")) for word in found.groups())
    assert 20_000 < flash < 45_000
    assert ram < 2000
    assert stack < 1000
    assert instructions < 1_500_000  # 416,520 products
    forms = json.loads(file.read_text())["forms"]
    assert list(forms) == [
        *("fake-quantized", "integers, float", "integers, fixed32", "c, cortex-m4"),
    ]
    assert forms["c, cortex-m4"]["largest"] == forms["integers, fixed32"]["largest"]
    assert forms["c, cortex-m4"]["program"] == {
        **{"other_images": 0, "flash": flash, "ram": ram, "stack": stack},
        "instructions": instructions,
    }


@pytest.mark.skipif(shutil.which("cc") is None, reason="takes a C compiler")
@pytest.mark.parametrize("rescale", ["fixed32", "float"])
def test_a_program_on_this_machine_answers_as_integers_do(
    run: Path, tmp_path: Path, capsys: Captured, rescale: str
) -> None:
    file = tmp_path / "found.json"
    words = ["verify", str(run), "--target", "host", "--rescale", rescale, "--json", str(file)]
    assert run_command(words) == 0
    told = capsys.readouterr().out
    assert "This machine, built by cc: all outputs are those of integers, to the last" in told
    numbers = json.loads(file.read_text())
    assert numbers["forms"]["c, host"]["program"] == {"other_images": 0, "compiler": "cc"}
    assert numbers["forms"]["c, host"]["top1"] == numbers["forms"][f"integers, {rescale}"]["top1"]


@takes_qemu
def test_a_wrong_program_on_a_core_is_found(
    run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qatlab.deploy.targets import Firmware

    right = Firmware.outputs
    monkeypatch.setattr(Firmware, "outputs", lambda self, pixels: right(self, pixels) + 1)
    assert run_command(["verify", str(run), "--target", "cortex-m0plus", "--images", "3"]) == 2
    told = capsys.readouterr()
    assert "outputs of 3 images are OTHERS than those of integers" in told.out
    assert "Beyond the tolerance: c, cortex-m0plus." in told.err


def test_images_of_a_wrong_program_are_counted_once(
    run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HostProgram.outputs
    monkeypatch.setattr(HostProgram, "outputs", lambda self, pixels: -right(self, pixels))
    assert run_command(["verify", str(run), "--target", "host", "--images", "7"]) == 2
    told = capsys.readouterr()
    assert "outputs of 7 images are OTHERS than those of integers" in told.out
    assert told.err.endswith("Beyond the tolerance: c, host.\n")


@pytest.mark.parametrize("name", ["net-v1.0", "."])
def test_folders_may_have_dots(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["export", str(run), "--format", "c", "-o", name]) == 0
    assert "model.c" in os.listdir(tmp_path / name)


def test_nothing_is_written_where_a_file_is_a_folder(
    run: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "net/model.c").mkdir(parents=True)
    assert run_command(["export", str(run), "--format", "c", "-o", str(tmp_path / "net")]) == 1
    assert capsys.readouterr().err.endswith("net/model.c: it is a folder.\n")
    assert os.listdir(tmp_path / "net") == ["model.c"]


def test_a_target_without_its_compiler_is_refused(
    run: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert run_command(["verify", str(run), "--target", "host"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "Error: --target host takes a C compiler: cc or gcc or clang, or the one"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--format", "c", "-o", "m.c", "--flash", "4x"],
            "--flash='4x' is wrong. Accepted: a size",
        ),
        (["--format", "c", "-o", "m.c", "--ram", "9" * 400], "Accepted: a size"),
        (["--format", "c", "-o", "m.c", "--flash", "8k"], "--flash=8,192 bytes are less than"),
        (["--format", "c", "-o", "m.c", "--ram", "1kB"], "Most takes pool2: "),
        (["--format", "c", "-o", "/proc/nothing/net"], "cannot write /proc/nothing/net/model.h"),
        (["--format", "c", "-o", "m.bin"], "a file that ends in .c, or a folder"),
        (["--format", "arduino", "-o", "m.c"], "a folder, as --format arduino"),
        (
            ["--format", "qdq", "-o", "m.onnx", "--ram", "64k"],
            "--ram has an effect with --format c",
        ),
        (["--format", "qdq", "-o", "m.onnx", "--layout", "hwc"], "--layout has an effect with"),
        (
            ["--format", "c", "-o", "m.c", "--prefix", "1x"],
            "--prefix='1x' is wrong. Accepted: a letter",
        ),
        (["--format", "c", "-o", "net", "--prefix", "main"], "--prefix=main is wrong. Accepted"),
    ],
)
def test_what_does_not_fit_is_refused(
    run: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    assert_refused(["export", str(run), *words], told, tmp_path, capsys, monkeypatch)


@takes_qemu
def test_code_is_told_apart_by_layer(run: Path, tmp_path: Path, capsys: Captured) -> None:
    assert run_command(["export", str(run), "--format", "c", "-o", str(tmp_path / "m.c")]) == 0
    told = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines()]
    numbers = {row[0] or row[1]: row for row in rows if len(row) == 6}
    code = {name: int(row[5].replace(",", "")) for name, row in numbers.items()}
    assert code["conv1"] == 0  # a site computes the sums that it reads
    assert code["relu2"] > 300
    assert code["shared by layers"] > 500
    flash, constants = (
        int(re.findall(rf"([\d,]+) bytes of {what}", told)[-1].replace(",", ""))
        for what in ("flash with code", r"constants \(flash\)")
    )
    assert sum(code.values()) == pytest.approx(flash - constants, rel=0.05)


def test_options_of_no_effect_with_a_target_are_reported(run: Path, capsys: Captured) -> None:
    for words, told in (
        (["--reader", "onnxruntime"], "--reader has no effect with --target"),
        (["--rescale", "float", "fixed32"], "--target runs one program"),
        ([], "--target=cortex-m9 is wrong."),
    ):
        target = "cortex-m9" if not words else "cortex-m4"
        assert run_command(["verify", str(run), "--target", target, *words]) == 1
        assert told in capsys.readouterr().err
