"""CPU seconds of commands that do not train; also of another checkout, in turn.

    python benchmarks/start_up.py --run outputs/runs/NAME/TIME
    git worktree add ../before COMMIT     # and with --before ../before

Printed are medians of user and system time, and with ``--before`` their ratio.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]


def seconds(checkout: Path, words: list[str]) -> float:
    """Return the CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, "-m", "qatlab", *words],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # a wrong word is one of them
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure each command in each checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="the other checkout")
    parser.add_argument("--run", type=Path, required=True, help="folder of a small finished run")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    run = str(given.run.absolute())
    commands = {
        "plan": ["plan", "quant=sat_4bit", "model=lenet", "data=synthetic"],
        "export --help": ["export", "--help"],
        "export, ONNX": ["export", run, "-o", "net.onnx"],
        "export, C": ["export", run, "--format", "c", "-o", "net.c"],
        "verify, 50 images": ["verify", run, "--images", "50"],
        "report, a table": ["report", run],
        "report, a page": ["report", run, "-o", "report.html"],
        "status": ["status", run],
        "a wrong key": ["train", "qunt=sat_4bit"],
        "a wrong model": ["plan", "model=lenett"],
        "a wrong value": ["train", "quant.weight.bits=four", "data=synthetic"],
    }
    print(f"{'command':<20} {'before':>8} {'now':>8} {'ratio':>7}" if given.before else "")
    for name, words in commands.items():
        if given.before is None:
            now = statistics.median(seconds(HERE, words) for _ in range(given.pairs))
            print(f"{name:<20} {now:8.2f}", flush=True)
            continue
        pairs = [(seconds(given.before, words), seconds(HERE, words)) for _ in range(given.pairs)]
        before, now = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name:<20} {before:8.2f} {now:8.2f} {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
