"""Writes a trained network as C: one file, a folder, or a library for Arduino."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from qatlab.deploy.c import PREFIX, CProgram, arduino, folder, named
from qatlab.deploy.c_file import c_file
from qatlab.deploy.targets import TARGETS, Firmware, missing_for
from qatlab.deploy.trained import Trained
from qatlab.errors import ConfigError, size_of, wrong
from qatlab.system import files
from qatlab.system.terminal import wide_console

MEASURED = "cortex-m4"


def check_output(path: Path, kind: str) -> None:
    """Raise a ConfigError for an output that is neither a file in C nor a folder."""
    # A name such as net-v1.0 is one of a folder, net.bin is not.
    is_folder = path.is_dir() or not re.search(r"\.[A-Za-z]\w*$", path.name)
    if kind == "c" and not is_folder and path.suffix != ".c":
        raise wrong("--output", path, "a file that ends in .c, or a folder, as --format c")
    if kind == "arduino" and not is_folder:
        raise wrong("--output", path, "a folder, as --format arduino")
    if is_folder and path.exists() and not path.is_dir():
        raise wrong("--output", path, "a folder; there is a file")


def prefix_of(word: str | None) -> str:
    """Return what names in C begin with.

    Raises:
        ConfigError: for a word that no name in C begins with.
    """
    if word is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,29}", word):
        raise wrong("--prefix", word, "a letter, then letters, digits and _, 30 of them at most")
    if word == "main":  # main.c is the example beside it
        raise wrong("--prefix", word, "a word that is not the name of another file")
    return PREFIX if word is None else word


def write(trained: Trained, given: argparse.Namespace, rescale: str) -> str:
    """Write the program, print what its layers take, and return a sentence about it.

    Raises:
        ConfigError: if it takes more than ``--flash`` or ``--ram`` allow.
    """
    program = c_file(trained, rescale, given.layout)
    firmware = _measured(program)
    _check_room(program, firmware, size_of("--flash", given.flash), size_of("--ram", given.ram))
    path: Path = given.output
    prefix = prefix_of(given.prefix)
    if path.suffix == ".c" and not path.is_dir():
        texts = {path: named(program.source, prefix)}
        build = f"cc -std=c99 -O2 {path} -o {path.with_suffix('')}"
    elif given.format == "arduino":
        own = arduino(program, path.absolute().name, prefix)
        texts, build = {path / name: text for name, text in own.items()}, ""
    else:
        texts = {path / name: text for name, text in folder(program, prefix).items()}
        build = f"make -C {path}"
    for place in texts:
        if place.is_dir():  # before anything is written
            raise ConfigError(f"cannot write {place}: it is a folder.")
    for place, text in texts.items():
        files.write_text(place, text)
    _print(program, firmware)
    sizes = (
        f"{path}: {program.flash:,} bytes of constants (flash), {program.ram:,} bytes of memory "
        "(RAM) with an image."
    )
    return " ".join([sizes, *[f"Build it: {build}."] * bool(build), *_about(program, firmware)])


def _measured(program: CProgram) -> Firmware | None:
    """Return the program as it was built and run for a core; None where that cannot be done."""
    if missing_for():
        return None
    try:
        firmware = Firmware(program.source, program.is_whole, TARGETS[MEASURED])
        firmware.measure()
    except ConfigError as error:  # such as a program that is too large for the board
        print(f"Not measured on a core: {error}")
        return None
    return firmware


def _check_room(
    program: CProgram, firmware: Firmware | None, flash: int | None, ram: int | None
) -> None:
    taken = firmware.flash if firmware else program.flash
    if flash is not None and taken > flash:
        most = max(program.layers, key=lambda row: row.flash)
        raise ConfigError(
            f"--flash={flash:,} bytes are less than the program takes: {taken:,}. Most take the "
            f"constants of {most.name}: {most.flash:,} bytes."
        )
    taken = program.ram - program.image_bytes + (firmware.stack if firmware else 0)
    if ram is not None and taken > ram:
        name, size = max(program.needed.items(), key=lambda own: own[1])
        raise ConfigError(
            f"--ram={ram:,} bytes are less than the program takes: {taken:,} without the image. "
            f"Most takes {name}: {size:,} bytes while it is computed."
        )


def _print(program: CProgram, firmware: Firmware | None) -> None:
    titles = ["layer", "operation", "bytes of constants", "bytes of memory", "MACs per image"]
    code = {} if firmware is None else program.by_layer(firmware.code)
    table, needed = Table(*titles, *[f"bytes of code, {MEASURED}"] * bool(code)), program.needed
    for row in program.layers:
        memory = f"{needed[row.name]:,}" if row.name in needed else ""
        numbers = [f"{row.flash:,}", memory, f"{row.multiply_accumulates:,}"]
        table.add_row(row.name, row.what, *numbers, *[f"{code.get(row.name, 0):,}"] * bool(code))
    if code:
        table.add_row("", "shared by layers", "", "", "", f"{code['']:,}")
    wide_console().print(table)


def _about(program: CProgram, firmware: Firmware | None) -> list[str]:
    found = []
    if firmware is not None:
        found.append(
            f"On a {MEASURED} (gcc, QEMU): {firmware.flash:,} bytes of flash with code, "
            f"{firmware.stack:,} of stack, {firmware.instructions:,} instructions for an image."
        )
    wide, channels = program.wide
    if channels:
        found.append(f"{wide:,} of {channels:,} channels rescale in 64 bits, the others in 32.")
    if program.left_out:
        found.append(f"The final {program.left_out} is left out: the outputs are its inputs.")
    return found


def options(parser: argparse.ArgumentParser, layouts: Mapping[str, str]) -> None:
    """Add the options of programs in C."""
    words = "; ".join(f"{name}: {what}" for name, what in layouts.items())
    parser.add_argument("--layout", choices=layouts, help=f"of c and arduino: images by {words}")
    parser.add_argument(
        "--prefix",
        help=f"of c and arduino: what names in C begin with, in place of {PREFIX}, so that several "
        "networks are parts of one firmware",
    )
    parser.add_argument("--flash", help="of c and arduino: bytes that the program may take: 256k")
    parser.add_argument(
        "--ram", help="the same of its memory and stack, without image and outputs: 64k"
    )
