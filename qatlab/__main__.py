"""The command ``qatlab``: what it is asked for, done by the part of the program that does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from qatlab.errors import did_you_mean

COMMANDS = {
    "train": "train a quantized network: qatlab train quant=sat_4bit model=lenet",
    "plan": "print layers, size and what cannot be exported; train nothing",
    "test": "measure a run on the test set: qatlab test run=FOLDER",
    "report": "a table, and with -o a page, of all runs below a folder",
    "compare": "what runs differ in",
    "export": "write a run as ONNX or C",
    "verify": "compare what leaves with what was trained, image by image",
    "import": "projects of N2D2: convert, check, weights, export-weights",
}
OF_FILES = {  # commands that are given all their words
    "report": "qatlab.report.__main__",
    "compare": "qatlab.compare",
    "export": "qatlab.export.__main__",
    "verify": "qatlab.verify.__main__",
    "import": "ini_compat.__main__",
}
GIVEN = "QATLAB_COMMAND"  # environment variable: of processes that Lightning starts for a run


def main() -> None:
    """Run the command that is named first; see ``qatlab --help``."""
    words = sys.argv[1:]
    if words[:1] in ([], ["-h"], ["--help"]):
        print(_help())
        raise SystemExit(0 if words else 1)
    if words[0] not in COMMANDS and GIVEN in os.environ:
        words.insert(0, os.environ[GIVEN])  # which gives them the words behind the command
    command, *others = words
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        print(
            f"Error: {command} is no command.{hint} Accepted: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        raise SystemExit(1)
    if "" not in sys.path:
        sys.path.insert(0, "")  # networks and callbacks of the user's project
    if command in OF_FILES:
        run: Callable[[list[str]], int | None] = import_module(OF_FILES[command]).main
        raise SystemExit(run(others) or 0)
    os.environ[GIVEN] = command
    sys.argv[1:] = [*others, "mode=plan"] if command == "plan" else others
    cli = import_module("qatlab.cli")
    cli.start(cli.test if command == "test" else cli.train)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: qatlab COMMAND ...",
            "",
            *lines,
            "",
            "train, plan and test take group=option and key=value; --help of a command lists them.",
            "./conf of the current folder is searched before qatlab's own; its modules are found.",
        ]
    )


if __name__ == "__main__":
    main()
