"""Compares all forms of many random networks, and counts what it finds."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import torch
from all_forms import CCase, Difference, check, check_floats, reason_of
from c_programs import SANITIZERS, differences
from random_programs import Program, Unfit
from random_statements import random_program
from shrinking import shrunk

CHUNK = 50  # networks that are looked at, and whose C is compiled, at once


@dataclass
class Counts:
    """What was found of some networks.

    Attributes:
        networks: how many.
        right: by form, how many of them were compared and are right.
        refused: by form and sentence, how many were refused.
        ties: images that part at a tie.
        unfit: networks that torch cannot train.
        different: by kind, the programs and what is different.
    """

    networks: int = 0
    right: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    ties: int = 0
    unfit: int = 0
    different: dict[str, list[tuple[Program, str]]] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Add what was found of others."""
        self.networks += other.networks
        self.right += other.right
        self.refused += other.refused
        self.ties += other.ties
        self.unfit += other.unfit
        for kind, found in other.different.items():
            self.different.setdefault(kind, []).extend(found)

    def __str__(self) -> str:
        """Return the counts as lines."""
        different = sum(map(len, self.different.values()))
        forms = ", ".join(f"{form} {count:,}" for form, count in self.right.items())
        refused = [f"  {count:,} x {reason}" for reason, count in self.refused.most_common()]
        return "\n".join(
            [
                f"{self.networks:,} networks; right: {forms or 'none'}; different: {different:,}; "
                f"unfit for torch: {self.unfit:,}; images that part at a tie: {self.ties:,}",
                "refused:",
                *refused,
            ]
        )


def counted(
    programs: Iterable[Program],
    c_share: float = 1.0,
    flags: Sequence[str] = (),
    in_float: bool = False,
) -> Counts:
    """Compare all forms of networks.

    Args:
        programs: the networks.
        c_share: of which so many are compiled as C: one of two for 0.5.
        flags: of the C compiler.
        in_float: compare files of floats only, as parts of the networks may have no other form.
    """
    counts, written = Counts(), list[CCase]()
    for program in programs:
        counts.networks += 1
        try:
            outcome = check_floats(program) if in_float else check(program)
        except Unfit:
            counts.unfit += 1
            continue
        except Difference as error:
            counts.different.setdefault(error.kind, []).append((program, error.detail))
            continue
        counts.right.update(form for form in outcome.right if form != "c")
        counts.refused.update(f"{form} | {reason_of(m)}" for form, m in outcome.refused.items())
        counts.ties += outcome.ties
        if outcome.c is not None:
            written.append(outcome.c)
    compiled = [case for i, case in enumerate(written) if int(i * c_share) < int((i + 1) * c_share)]
    with tempfile.TemporaryDirectory() as folder:
        wrong = differences(compiled, Path(folder), flags)
    for case, difference in wrong:
        counts.different.setdefault(difference.kind, []).append((case.program, difference.detail))
    counts.right["c"] += len(compiled) - len(wrong)
    return counts


def kind_of(program: Program, in_c: bool = False, in_float: bool = False) -> str | None:
    """Return the kind of difference that a network has, if any.

    Args:
        program: the network.
        in_c: compile and run its C program, too.
        in_float: see :func:`counted`.

    Raises:
        Unfit: if torch cannot train it.
    """
    try:
        outcome = check_floats(program) if in_float else check(program)
    except Difference as error:
        return error.kind
    if in_c and outcome.c is not None:
        with tempfile.TemporaryDirectory() as folder:
            for _, difference in differences([outcome.c], Path(folder)):
                return difference.kind
    return None


def smallest(
    kind: str, found: Sequence[tuple[Program, str]], tries: int, in_float: bool = False
) -> list[str]:
    """Return the texts of some networks of a kind of difference, shrunk, the smallest first."""
    fails = partial(kind_of, in_c=kind.startswith("c: "), in_float=in_float)
    shortest = sorted((program for program, _ in found), key=lambda p: len(p.statements))
    return sorted({str(shrunk(program, fails)) for program in shortest[:tries]}, key=len)


def _of_seeds(flags: Sequence[str], in_float: bool, seeds: range) -> Counts:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's own, of odd networks
    programs = (random_program(Random(seed), in_float) for seed in seeds)
    return counted(programs, flags=flags, in_float=in_float)


def _chunks(seed: int, count: int) -> Iterator[range]:
    for first in range(seed, seed + count, CHUNK):
        yield range(first, min(first + CHUNK, seed + count))


def main() -> int:
    """Run the command; return its exit code.

    It prints how many networks are right, refused (for which reason) and different, and of each
    kind of difference the smallest networks found.
    """
    parser = argparse.ArgumentParser(prog="python tests/generated/run.py", description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="of the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--sanitize", action="store_true", help="compile C with sanitizers")
    parser.add_argument("--shrink", type=int, default=2, help="networks of each kind to shrink")
    parser.add_argument("--floats", action="store_true", help="with parts that stay float")
    given = parser.parse_args()
    flags = SANITIZERS if given.sanitize else ()
    start, total = time.monotonic(), Counts()
    found = partial(_of_seeds, flags, given.floats)
    with ProcessPoolExecutor(given.jobs) as pool:
        for counts in pool.map(found, _chunks(given.seed, given.count)):
            total.add(counts)
            different = sum(map(len, total.different.values()))
            print(f"{total.networks:,} networks, {different:,} different", file=sys.stderr)
    print(f"{total}\n{time.monotonic() - start:.0f} seconds")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for kind, wrong in sorted(total.different.items(), key=lambda item: -len(item[1])):
        print(f"\n# ==== {len(wrong)} x {kind}\n# {wrong[0][1]}")
        print("\n\n".join(smallest(kind, wrong, given.shrink, given.floats)), flush=True)
    return 1 if total.different else 0
