"""The command line: ``python -m ini_compat convert | check | weights | export-weights``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path

from ini_compat.build import understand
from ini_compat.convert import experiment, phase
from ini_compat.errors import IniError
from ini_compat.network import Data, Network, Node
from ini_compat.report import deviation_lines, experiment_text, facts, table
from ini_compat.whole_files import write_bytes

EXPERIMENTS = Path("conf/experiment")
UNDERSTOOD, WITH_DEVIATIONS, NOT_UNDERSTOOD, INTERRUPTED = 0, 1, 2, 130


@dataclass
class Answer:
    """What a command has done: its exit code, and the lines for standard output and error."""

    code: int = UNDERSTOOD
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(words)
    given = sys.argv[1:] if words is None else words
    run: Callable[[argparse.Namespace, str], Answer] = arguments.run
    try:
        answer = run(arguments, shlex.join(["python", "-m", "ini_compat", *given]))
    except IniError as error:
        answer = Answer(NOT_UNDERSTOOD, errors=[str(error)])
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        answer = Answer(NOT_UNDERSTOOD, errors=[said])
    except KeyboardInterrupt:
        answer = Answer(INTERRUPTED, errors=["interrupted"])
    _print(answer)
    return answer.code


def script() -> None:
    """Run as ``qatlab-ini``."""
    raise SystemExit(main())


def _print(answer: Answer) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        for line in answer.lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`: at exit, Python would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for error in answer.errors:
        print(f"error: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ini_compat",
        description="Takes N2D2 projects over: .ini files become experiments for train.py, .syntxt "
        "files become weights.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    convert = commands.add_parser("convert", help="write an experiment for train.py")
    check = commands.add_parser(
        "check", help="print what is understood; exit code 0: all, 1: with deviations, 2: nothing"
    )
    weights = commands.add_parser("weights", help="turn .syntxt files into one safetensors file")
    export = commands.add_parser(
        "export-weights", help="turn a safetensors file into .syntxt files"
    )
    weights.add_argument("folder", help="folder of .syntxt files", type=Path)
    export.add_argument("weights", help="safetensors file, such as a run's", type=Path)
    for command in (convert, check, weights, export):
        _add_common(command)
    convert.add_argument(
        "-o", "--output", type=Path, metavar="YAML", help=f"default: {EXPERIMENTS}/<name>.yaml"
    )
    convert.add_argument(
        "--weights", type=Path, metavar="DIR", help=".syntxt files that the experiment starts from"
    )
    convert.add_argument(
        "--epochs", type=_count, metavar="N", help="how long to train: N2D2's -learn-epoch"
    )
    convert.add_argument("--strict", action="store_true", help="write nothing if anything is lost")
    convert.add_argument("--force", action="store_true", help="replace a file that was changed")
    check.add_argument("--json", action="store_true", help="print JSON")
    weights.add_argument("-o", "--output", type=Path, required=True, metavar="SAFETENSORS")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    convert.set_defaults(run=_convert)
    check.set_defaults(run=_check)
    weights.set_defaults(run=_weights)
    export.set_defaults(run=_export)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("ini", help="N2D2's .ini file")
    command.add_argument(
        *("-D", "--define"),
        action="append",
        default=[],
        metavar="VAR=value",
        help="value of a $VAR of the file; may be repeated",
    )
    command.add_argument("--onnx", metavar="FILE", help="graph of the section of Type=ONNX")
    command.add_argument(
        "--images",
        type=_count,
        metavar="N",
        help="number of training images, where the data set does not tell",
    )
    command.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of the data set, for files that are computed from its statistics",
    )


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is wrong. Accepted: 1 or more")
    return int(word)


def _understand(arguments: argparse.Namespace) -> Network:
    """Return the network with all problems; an empty one if not even sections can be read."""
    try:
        defines = dict(_definition(word) for word in arguments.define)
        if arguments.data is not None and not arguments.data.is_dir():
            raise IniError(f"--data {arguments.data} is not a folder")
        return understand(arguments.ini, defines, arguments.images, arguments.onnx, arguments.data)
    except IniError as error:
        return Network("", arguments.ini, Data({}, (1, 1, 1), 1), problems=[error])


def _definition(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name.removeprefix("$"):
        raise IniError(f"-D {word} is wrong. Accepted: -D VAR=value")
    return name.removeprefix("$"), value


def _convert(arguments: argparse.Namespace, command: str) -> Answer:
    network = _understand(arguments)
    if network.problems:
        return _described(network, network)
    everything = replace(network, cells=dict(network.cells))
    content = experiment(network, arguments.epochs)
    answer = _described(everything, network)
    if arguments.strict and network.deviations:
        answer.code = WITH_DEVIATIONS
        answer.errors.append("--strict: nothing is written")
        return answer
    answer.code = UNDERSTOOD
    output: Path = arguments.output or _default_output(network)
    weights = output.with_suffix(".safetensors")
    with_weights = arguments.weights is not None or bool(network.weights)
    if with_weights:
        content["init_weights"] = str(weights)
    text = experiment_text(network, content, command)
    _check_output(output, text, arguments.force)
    if with_weights:
        answer.lines += _write_weights(network, arguments.weights, phase(content), weights)
    write_bytes(output, text.encode())
    answer.lines.append(f"experiment: {output}")
    if output.parent.resolve() == EXPERIMENTS.resolve():
        answer.lines.append(f"train it: python train.py experiment={output.stem}")
        if with_weights:
            answer.lines.append(f"test it: python test.py experiment={output.stem}")
    return answer


def _default_output(network: Network) -> Path:
    if not EXPERIMENTS.is_dir():
        raise IniError(f"there is no folder {EXPERIMENTS} here: say with -o where the YAML goes")
    return EXPERIMENTS / f"{network.name}.yaml"


def _check_output(path: Path, text: str, force: bool) -> None:
    """Raise unless the file may be written; one that says something else is only replaced so."""

    def said(content: str) -> list[str]:
        return [line for line in content.splitlines() if not line.startswith("#")]

    if path.suffix != ".yaml":
        raise IniError(f"-o {path} does not end in .yaml")
    if not path.parent.is_dir():
        raise IniError(f"-o {path}: its folder does not exist")
    if path.is_dir():
        raise IniError(f"-o {path} is a folder")
    if path.exists() and not force:
        there = path.read_text(encoding="utf-8", errors="replace")
        if said(there) != said(text):
            raise IniError(f"{path} exists and says something else: --force replaces it")


def _write_weights(network: Network, folder: Path | None, last: str, file: Path) -> list[str]:
    """Write the weights of an ONNX file, or of a folder; returns what there is to say."""
    from ini_compat import weights

    if folder is None:
        state = weights.of_onnx(network)
    else:
        state = weights.read_folder(network, folder, last)
    weights.write_state(state, file)
    notes = [f"note: {notice}" for notice in state.notices]
    return [*notes, f"weights: {file}, {len(state.tensors)} tensors"]


def _check(arguments: argparse.Namespace, command: str) -> Answer:
    network = _understand(arguments)
    if not network.problems:
        try:
            experiment(replace(network, cells=dict(network.cells)))
        except IniError as error:
            network.problems.append(error)
    answer = _described(network, network)
    if arguments.json:
        answer.lines = [json.dumps(facts(network), indent=1)]
    return answer


def _described(everything: Network, network: Network) -> Answer:
    """Return the table of all cells, notices, deviations and problems."""
    lines = [table(everything)] if everything.cells else []
    lines += [f"note: {notice}" for notice in network.notices]
    lines += deviation_lines(network.deviations)
    code = (
        NOT_UNDERSTOOD
        if network.problems
        else WITH_DEVIATIONS
        if network.deviations
        else UNDERSTOOD
    )
    return Answer(code, lines, [str(problem) for problem in network.problems])


def _accepted(arguments: argparse.Namespace) -> tuple[Network, Node]:
    """Return the network and its experiment, or raise with all problems."""
    network = _understand(arguments)
    if network.problems:
        raise IniError("\nerror: ".join(map(str, network.problems)))
    return network, experiment(network)


def _weights(arguments: argparse.Namespace, command: str) -> Answer:
    network, content = _accepted(arguments)
    return Answer(lines=_write_weights(network, arguments.folder, phase(content), arguments.output))


def _export(arguments: argparse.Namespace, command: str) -> Answer:
    from ini_compat import weights

    network, _ = _accepted(arguments)
    tensors = weights.read_state(arguments.weights)
    remarks = weights.write_folder(network, tensors, arguments.output)
    return Answer(lines=[*(f"note: {remark}" for remark in remarks), f"files: {arguments.output}"])


if __name__ == "__main__":
    raise SystemExit(main())
