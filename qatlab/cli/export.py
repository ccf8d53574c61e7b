"""Writes a trained network for other programs: ``qatlab export RUN -o model.onnx``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qatlab.cli import export_c
from qatlab.cli.parser import Parser
from qatlab.deploy.c import LAYOUTS
from qatlab.deploy.integer import RESCALES
from qatlab.deploy.obstacles import RESCALE
from qatlab.deploy.onnx.readers import READERS, advice, chosen
from qatlab.deploy.trained import Trained
from qatlab.errors import ConfigError, size_of, wrong
from qatlab.run.loading import load_arguments
from qatlab.system import files

FORMATS = {
    "qdq": "ONNX: QuantizeLinear and DequantizeLinear around operators on floats",
    "qonnx": "ONNX with QONNX's Quant, for FINN and hls4ml",
    "integer": "ONNX of whole numbers: ConvInteger and MatMulInteger",
    "c": "C99 of whole numbers: one file, or a folder with a header, an example and a Makefile",
    "arduino": "the same as a library for Arduino",
}
PROGRAMS = ("c", "arduino")


def main(words: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(prog="qatlab export", description=__doc__)
    parser.add_argument(
        "run", nargs="+", help="folder of a run, or words of qatlab test: experiment=LeNet_4b"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="file to write; of c, a folder, too"
    )
    formats = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    readers = ", ".join(READERS)
    parser.add_argument(
        "--for",
        dest="reader",
        help=f"program that reads the file, whose format and conventions are written: {readers}",
    )
    parser.add_argument("--format", choices=FORMATS, help=f"{formats}; default: the reader's")
    parser.add_argument(
        "--opset",
        type=int,
        help="of ONNX, 13 to 25; default: the lowest that stores the weights at their width",
    )
    parser.add_argument("--rescale", help=f"of integer and c: {', '.join(RESCALES)}")
    export_c.options(parser, LAYOUTS)
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file of the run's")
    given = parser.parse_args(words)
    if given.format in PROGRAMS:
        _check_c(given)
    else:
        _check_no_c(given)
        given.reader, given.format = chosen(given.reader, given.format, given.opset)
    _check(given)
    trained = load_arguments(given.run, given.checkpoint)
    if given.format in PROGRAMS:
        print(export_c.write(trained, given, given.rescale or RESCALE))
    else:
        print(_write_onnx(trained, given))


def _check_c(given: argparse.Namespace) -> None:
    """Raise for options of ONNX files."""
    for option, value in (("--opset", given.opset), ("--for", given.reader)):
        if value is not None:
            raise ConfigError(f"{option} cannot be combined with --format {given.format}.")
    export_c.check_output(given.output, given.format)
    for option in ("flash", "ram"):
        size_of(f"--{option}", getattr(given, option))
    export_c.prefix_of(given.prefix)
    given.layout = given.layout or next(iter(LAYOUTS))


def _check_no_c(given: argparse.Namespace) -> None:
    """Raise for options of programs in C."""
    for option in ("layout", "flash", "ram", "prefix"):
        if getattr(given, option) is not None:
            raise ConfigError(f"--{option} has an effect with --format c and arduino only.")


def _check(given: argparse.Namespace) -> None:
    """Raise for an option that has no effect, or a package that is not there."""
    name = given.format
    if name in PROGRAMS:
        return
    if given.output.suffix != ".onnx":
        accepted = f"a file that ends in .onnx, as --format {name}"
        raise wrong("--output", given.output, accepted, "For a program in C: --format c.")
    if given.rescale is not None and name in ("qdq", "qonnx"):
        raise ConfigError(
            f"--rescale cannot be combined with --format {name}, which rescales in float. "
            "Accepted: --format integer, --format c."
        )
    if not find_spec("onnx"):
        raise ConfigError(f"--format {name} needs the package onnx: pip install 'qatlab[onnx]'.")


def _write_onnx(trained: Trained, given: argparse.Namespace) -> str:
    from qatlab.deploy.onnx_file import onnx_file

    file = onnx_file(trained, given.format, given.opset, given.rescale, given.reader)
    content = file.SerializeToString()
    files.write_bytes(given.output, content)
    table = trained.table
    entries = {entry.key: entry.value for entry in file.metadata_props}
    facts = sum(len(key) + len(value) for key, value in entries.items())
    return (
        f"{given.output}: {len(content):,} bytes, of which {facts:,} are metadata; weights and "
        f"biases at their bits take {table.size_bytes:,}. {entries['runtime']}. Checked."
        + _left_out(entries.get("left out"))
        + _in_float(json.loads(entries.get("float parts", "[]")), entries.get("batch"))
        + _in_parts(entries.get("channels in parts"))
        + "".join(f" {sentence}" for sentence in advice(entries))
    )


def _in_float(parts: Sequence[str], batch: str | None) -> str:
    """Return sentences about parts of the network that stay float, and the batch of the file."""
    if not parts:
        return ""
    names = ", ".join([*parts[:3], *["..."] * (len(parts) > 3)])
    text = f" In float between quantizers: {len(parts)} part{'s' * (len(parts) > 1)} ({names})."
    fixed = " The batch is 1: the network computes no other, or torch cannot tell."
    return text + (fixed if batch == "1" else "")


def _left_out(function: str | None) -> str:
    """Return a sentence about a last function that the integer network leaves out."""
    if not function:
        return ""
    return f" The final {function} is left out: the outputs are its inputs."


def _in_parts(channels: str | None) -> str:
    """Return a sentence about channels whose sums take more than 24 bits."""
    return f" Channels with sums in parts: {channels}." if channels else ""
