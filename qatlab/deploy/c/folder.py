"""A program as a folder that firmware is made of, and as a library for Arduino."""

from __future__ import annotations

import re

from qatlab.deploy.c.picture import drawn
from qatlab.deploy.c.runtime import fixed_text
from qatlab.deploy.c.source import CProgram

NAME = "model"
PREFIX = "qatlab"


def named(text: str, prefix: str) -> str:
    """Return C, or a text about it, in which names and macros begin with another word."""

    def changed(found: re.Match[str]) -> str:
        ours = {f"{PREFIX}_": f"{prefix}_", f"{PREFIX.upper()}_": f"{prefix.upper()}_"}
        return ours.get(found[0], found[0])

    strings = r'"(?:\\.|[^"\\\n])*"'  # names of classes, which stay as they are
    return re.sub(rf"{strings}|{PREFIX}_|{PREFIX.upper()}_", changed, text)


def folder(program: CProgram, prefix: str = PREFIX) -> dict[str, str]:
    """Return the files of a folder: library, header, an example that reads files, a Makefile.

    Args:
        program: of a network.
        prefix: of names and macros. Another one than ours is the name of the files, too, so that
            several networks are parts of one firmware.
    """
    own = NAME if prefix == PREFIX else prefix
    files = {
        f"{own}.h": program.header,
        f"{own}.c": program.library(f"{own}.h"),
        "main.c": program.main(f"{own}.h"),
        "Makefile": re.sub(rf"\b{NAME}\b", own, fixed_text("Makefile.txt")) + "\n",
        "README.md": re.sub(rf"\b{NAME}\b", own, _readme(program)),
    }
    found = {name: named(text, prefix) for name, text in files.items()}
    return {**found, "memory.svg": drawn(program)}


def arduino(program: CProgram, name: str, prefix: str = PREFIX) -> dict[str, str]:
    """Return the files of a library for Arduino, with a sketch.

    Args:
        program: of a network.
        name: of the library.
        prefix: of names and macros.
    """
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or NAME
    properties = {
        "name": plain,
        "version": "1.0.0",
        "author": "qatlab",
        "maintainer": "qatlab",
        "sentence": f"A network of {program.classes} classes in whole numbers.",
        "paragraph": f"{program.flash} bytes of constants, {program.ram} bytes of memory.",
        "category": "Data Processing",
        "url": "https://example.com",
        "architectures": "*",
        "includes": f"{plain}.h",
    }
    found = {
        "library.properties": "".join(f"{key}={value}\n" for key, value in properties.items()),
        f"src/{plain}.h": program.header,
        f"src/{plain}.c": program.library(f"{plain}.h"),
        "examples/Classify/Classify.ino": fixed_text("Classify.ino.txt").format(header=plain)
        + "\n",
    }
    return {name: named(text, prefix) for name, text in found.items()}


def _readme(program: CProgram) -> str:
    return (
        fixed_text("README.txt").format(
            image=program.image, flash=program.flash, ram=program.ram, classes=program.classes
        )
        + "\n"
    )
