"""Compares all forms of a network on a data set: ``qatlab verify outputs/runs/<run>``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.status import Status
from rich.table import Table
from torch import Tensor

from qatlab.cli.parser import Parser
from qatlab.deploy.integer import RESCALES
from qatlab.deploy.integer.rescaling import check_word
from qatlab.deploy.onnx.readers import advice
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.targets import HOST, TARGETS, HostProgram, Target, target_of
from qatlab.deploy.verify.comparison import Comparison, compare
from qatlab.deploy.verify.forms import HINT, AsIntegers, FakeQuantized, OnTarget, read_onnx
from qatlab.deploy.verify.readers import PACKAGES, check_reader, forms_in
from qatlab.deploy.verify.trained import (
    batches_of,
    can_make_onnx,
    check_outputs,
    forms_of,
    integers_of,
    on_target,
)
from qatlab.errors import ConfigError
from qatlab.run.loading import load_arguments
from qatlab.system import files
from qatlab.system.terminal import wide_console

TOLERANCE = 5e-4  # share of images that may get another class in fixed point


def _shown(
    batches: Iterator[tuple[Tensor, Tensor]], status: Status
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hand on batches, and say how many images there were."""
    done = 0
    for images, labels in batches:
        yield images, labels
        done += len(images)
        status.update(f"{done:,} images compared")


def _print(found: Sequence[Comparison]) -> None:
    classifies = found[0].classifies
    other = "class changed" if classifies else "other outputs"
    titles = ("form", *["top-1"] * classifies, other, "of which ties", "max abs. difference")
    table = Table(*titles, "mean")
    table.add_column("diverges at")
    for form in found:
        at = form.sites.get(form.parts_at or "")
        where = f"{form.parts_at}: {at.first:,} codes, {at.from_tie:.1e} from a tie" if at else ""
        table.add_row(
            form.name,
            *[f"{form.right / form.images:.2%}"] * classifies,
            *(f"{form.different:,}", f"{form.ties:,}"),
            *(f"{form.largest:.1e}", f"{form.total / form.outputs:.1e}"),
            where,
        )
    wide_console().print(table)
    shown = [form for form in found[1:] if form.sites]
    inside = Table("site", "codes", *(f"codes changed: {form.name}" for form in shown))
    for site in shown[0].sites if shown else ():
        counts = (f"{form.sites[site].different:,}" if site in form.sites else "" for form in shown)
        inside.add_row(site, f"{shown[0].sites[site].codes:,}", *counts)
    if shown:
        wide_console().print(inside)


def _target(given: argparse.Namespace) -> Target | None:
    """Return the core whose program is run, None for this machine."""
    for option, value in (("--reader", given.reader), ("--onnx", given.onnx)):
        if value:
            raise ConfigError(f"{option} has no effect with --target, which runs a C program.")
    if len(given.rescale or ()) > 1:
        raise ConfigError("--target runs one program: give --rescale one word.")
    return None if given.target == HOST else target_of(given.target)


def _told(form: OnTarget) -> bool:
    """Print what a program on a core takes; return whether all its outputs are right."""
    own = form.built
    right = (
        f"outputs of {form.apart:,} images are OTHERS than those of integers"
        if form.apart
        else "all outputs are those of integers, to the last bit"
    )
    if isinstance(own, HostProgram):
        print(f"This machine, built by {own.compiler}: {right}.")
        return not form.apart
    print(
        f"{own.target.name} in QEMU: {right}. Flash {own.flash:,} bytes with code, RAM {own.ram:,} "
        f"and {own.stack:,} of stack; {own.instructions:,} instructions for an image (no cycles)."
    )
    return not form.apart


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code, 2 for forms that differ beyond the tolerance."""
    parser = Parser(prog="qatlab verify", description=__doc__)
    parser.add_argument(
        "run", nargs="+", help="folder of a run, or arguments of qatlab test: experiment=LeNet_4b"
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or a file of the run's")
    parser.add_argument("--data", default="test", choices=("test", "validation"))
    parser.add_argument("--images", type=int, help="number of images to compare; by default all")
    parser.add_argument("--rescale", nargs="+", help=f"{', '.join(RESCALES)}; by default fixed32")
    parser.add_argument(
        "--onnx",
        nargs="+",
        type=Path,
        default=[],
        help="ONNX files of this run; by default one is exported",
    )
    parser.add_argument(
        "--reader", help=f"a program that computes its file, too: {', '.join(PACKAGES)}"
    )
    parser.add_argument(
        "--target",
        help=f"where its C program is built for and run: {HOST}, this machine, or in QEMU "
        f"{', '.join(TARGETS)}",
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="share of images whose class may change"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args(words)
    if given.reader is not None:
        check_reader(given.reader)
    for word in given.rescale or ():
        check_word(word)
    if given.rescale and given.reader is not None:
        raise ConfigError("--rescale has no effect with --reader, which computes a file.")
    target = None if given.target is None else _target(given)
    trained = load_arguments(given.run, given.checkpoint)
    data = trained.data
    check_outputs(trained, given.images)
    network, why_not = integers_of(trained)
    if given.rescale and network is None:
        raise ConfigError(f"--rescale has no effect: no integers are compared: {why_not}")
    if given.target is not None:
        others = on_target(trained, network, why_not, target, given.rescale, given.tolerance)
    elif given.reader is None:
        rescales = given.rescale or ["fixed32"]
        others = forms_of(trained, network, rescales, given.onnx, given.tolerance)
    else:
        others = forms_in(given.reader, trained, network, given.onnx, given.tolerance)
    for path in given.onnx:
        file, _ = read_onnx(path)
        for sentence in advice({entry.key: entry.value for entry in file.metadata_props}):
            print(f"{path}: {sentence}")
    first = FakeQuantized(trained.model, positions=network is None)
    exact = None if network is None else AsIntegers(network, "float", 0.0)
    codes = [] if network is None else pixel_codes(data)
    batches = batches_of(data, given.data, given.images)
    with wide_console().status("comparing") as status:  # on a terminal only
        found = compare(first, exact, others, _shown(batches, status), codes, trained.classifies)
    if found[0].images == 0:
        raise ConfigError(f"--data {given.data} has no images.")
    _print(found)
    bits = {} if network is None else network.accumulator_bits
    widths = ", ".join(f"{name} {width}" for name, width in bits.items())
    inside = f"accumulator bits: {widths}." if network else f"no integers are compared: {why_not}"
    print(f"{found[0].images:,} images; {inside}")
    if given.json is not None:
        forms = {form.name: form.to_json() for form in found}
        for form in others:
            if isinstance(form, OnTarget):
                forms[form.name]["program"] = {"other_images": form.apart, **form.built.facts}
        numbers = {"images": found[0].images, "forms": forms}
        files.write_json(given.json, {**numbers, "accumulator_bits": bits})
    failed = [form.name for form in found if not form.passes]
    failed += [form.name for form in others if isinstance(form, OnTarget) and not _told(form)]
    if not given.onnx and given.reader is given.target is None and not can_make_onnx():
        print(f"ONNX was not compared, as onnxruntime is not installed: {HINT}.")
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        print(f"Beyond the tolerance: {names}.", file=sys.stderr)
    return 2 if failed else 0
