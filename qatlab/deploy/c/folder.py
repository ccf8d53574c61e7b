"""A program as a folder that firmware is made of, and as a library for Arduino."""

from __future__ import annotations

import re

from qatlab.deploy.c.picture import drawn
from qatlab.deploy.c.runtime import fixed_text
from qatlab.deploy.c.source import CProgram

NAME = "model"


def folder(program: CProgram) -> dict[str, str]:
    """Return the files of a folder: library, header, an example that reads files, a Makefile.

    Args:
        program: of a network.
    """
    return {
        f"{NAME}.h": program.header,
        f"{NAME}.c": program.library(f"{NAME}.h"),
        "main.c": program.main(f"{NAME}.h"),
        "Makefile": fixed_text("Makefile.txt") + "\n",
        "memory.svg": drawn(program),
        "README.md": _readme(program),
    }


def arduino(program: CProgram, name: str) -> dict[str, str]:
    """Return the files of a library for Arduino, with a sketch.

    Args:
        program: of a network.
        name: of the library.
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
    return {
        "library.properties": "".join(f"{key}={value}\n" for key, value in properties.items()),
        f"src/{plain}.h": program.header,
        f"src/{plain}.c": program.library(f"{plain}.h"),
        "examples/Classify/Classify.ino": fixed_text("Classify.ino.txt").format(header=plain)
        + "\n",
    }


def _readme(program: CProgram) -> str:
    return (
        fixed_text("README.txt").format(
            image=program.image, flash=program.flash, ram=program.ram, classes=program.classes
        )
        + "\n"
    )
