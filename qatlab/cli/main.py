"""The command ``qatlab``: its subcommands, and what happens to their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from qatlab.errors import ConfigError, QatlabError, did_you_mean, plain

COMMANDS = {
    "init": "make a project of your own, with a network and images: qatlab init myproject",
    "train": "train a quantized network: qatlab train quant=sat_4bit model=lenet",
    "plan": "print layers, size and what cannot be exported; train nothing",
    "test": "measure a run on the test set: qatlab test run=FOLDER",
    "status": "how far the jobs of a sweep are, live",
    "report": "a table, and with -o a page, of all runs below a folder",
    "compare": "what runs differ in",
    "search": "the bits of each layer for budgets: qatlab search RUN budget.flash=32kB",
    "export": "write a run as ONNX or C",
    "verify": "compare what leaves with what was trained, image by image",
    "import": "projects of N2D2: convert, check, weights, export-weights",
}
ROOMS = {  # commands that are given all their words
    "status": "qatlab.cli.status",
    "init": "qatlab.cli.init",
    "report": "qatlab.cli.report",
    "compare": "qatlab.cli.compare",
    "search": "qatlab.cli.search",
    "export": "qatlab.cli.export",
    "verify": "qatlab.cli.verify",
    "import": "ini_compat.__main__",
}
COMMAND = "QATLAB_COMMAND"  # environment variable: of processes that Lightning starts for a run


def main() -> None:
    """Run the command that is named first; see ``qatlab --help``."""
    words = sys.argv[1:]
    if words[:1] in ([], ["-h"], ["--help"]):
        raise SystemExit(run(["--help"]) or int(not words))
    if words[0] not in COMMANDS and COMMAND in os.environ:
        words.insert(0, os.environ[COMMAND])  # which gives them the words behind the command
    command, *arguments = words
    if "" not in sys.path:
        sys.path.insert(0, "")  # networks and callbacks of the user's project
    if command in ROOMS or command not in COMMANDS:
        raise SystemExit(run(words))
    os.environ[COMMAND] = command
    sys.argv[1:] = [*arguments, "mode=plan"] if command == "plan" else arguments
    try:
        app = import_module("qatlab.cli.hydra_app")  # which takes a second
    except KeyboardInterrupt:
        raise SystemExit(_interrupted()) from None
    app.start(app.test if command == "test" else app.train)


def run(words: Sequence[str]) -> int:
    """Run a command that takes no configuration; return its exit code.

    A mistake of the user is reported in one sentence, with exit code 1.
    """
    command, *arguments = words
    try:
        if command == "--help":
            print(_help(), flush=True)
            return 0
        if command not in ROOMS:
            hint = did_you_mean(command, COMMANDS)
            names = ", ".join(COMMANDS)
            raise ConfigError(f"{command} is not a command.{hint} Accepted: {names}.")
        code: int | None = import_module(ROOMS[command]).main(arguments)
        return code or 0
    except KeyboardInterrupt:
        return _interrupted()
    except QatlabError as error:
        problem = str(error)
    except Exception as error:
        sentence = import_module("qatlab.cli.messages").sentence(error)  # which knows Hydra's
        if sentence is None:
            raise
        problem = str(sentence)
    print(f"Error: {plain(problem)}", file=sys.stderr)
    return 1


def _interrupted() -> int:
    print("Interrupted.", file=sys.stderr)
    return 130  # as a shell reports SIGINT


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
