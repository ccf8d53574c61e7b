"""What the report of a run of many epochs takes: ``python -m benchmarks.report_rows``.

The run has a row for each epoch: accuracies, losses, and what one quantizer has learned, random
numbers all of them, written with all their digits as train.py does.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COLUMNS = (
    *("epoch", "step", "phase", "train/loss", "train/acc", "val/loss", "val/acc"),
    *("quant/relu1/alpha", "quant/relu1/clipped"),
)


def write_run(folder: Path, rows: int) -> None:
    """Leave a finished run."""
    folder.mkdir(parents=True)
    result = {"name": "long", "seed": 1, "size_bytes": 1000, "epochs": {"quantize": rows}}
    facts = {"test": {"phase": "quantize", "top1": 0.9}, "environment": {"commit": None}}
    (folder / "result.json").write_text(json.dumps({**result, **facts}))
    dice = random.Random(0)
    with (folder / "metrics.csv").open("w") as file:
        file.write(",".join(COLUMNS) + "\n")
        for epoch in range(rows):
            values = ",".join(repr(dice.random()) for _ in COLUMNS[3:])
            file.write(f"{epoch},{10 * epoch + 9},quantize,{values}\n")


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        write_run(Path(place) / "runs/a", given.rows)
        page = Path(place) / "report.html"
        words = [
            sys.executable,
            "-m",
            "qatlab",
            "report",
            str(Path(place) / "runs"),
            "-o",
            str(page),
        ]
        start = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = page.stat().st_size
    print(
        f"{given.rows:,} rows: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of one core),"
        f" {used.ru_maxrss / 1024:.0f} MiB, a page of {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
