"""How long a page of many runs takes to open: ``python -m benchmarks.report_page FOLDER``.

Runs are copies of those in the folder, each with a learning rate of its own. Times are from when
the browser is told the address until the table can be used, and until all charts are drawn.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from playwright.sync_api import sync_playwright

from qatlab.results.record import CONFIG, RESULT

FILES = (CONFIG, RESULT, "metrics.csv", "layers.json")


def copy_runs(source: Path, target: Path, count: int) -> None:
    """Fill ``target`` with ``count`` copies of the finished runs below ``source``."""
    runs = [file.parent for file in sorted(source.rglob(RESULT))]
    if not runs:
        sys.exit(f"Error: there is no {RESULT} below {source}.")
    for number, run in enumerate(islice(cycle(runs), count)):
        copy = target / f"run_{number}"
        copy.mkdir(parents=True)
        for name in FILES:
            if (run / name).exists():
                shutil.copy(run / name, copy)
        if (run / ".hydra").exists():
            shutil.copytree(run / ".hydra", copy / ".hydra")
        if (copy / CONFIG).exists():
            text = (copy / CONFIG).read_text()
            (copy / CONFIG).write_text(
                re.sub(r"\blr: .*", f"lr: {0.01 + number * 1e-5}", text, count=1)
            )


def opened(page: Path, browser_path: str, repeats: int) -> list[tuple[float, float]]:
    """Return the seconds until the table is there and until all is drawn, for each repeat."""
    times = []
    with sync_playwright() as playwright:
        for _ in range(repeats):
            browser = playwright.chromium.launch(
                executable_path=browser_path, args=["--no-sandbox"]
            )
            shown = browser.new_page(viewport={"width": 1400, "height": 1000})
            shown.goto(page.as_uri(), wait_until="commit")
            root = shown.wait_for_selector("html[data-drawn]", state="attached")
            assert root is not None
            marks = [root.get_attribute(f"data-{name}") for name in ("opened", "drawn")]
            times.append((float(marks[0] or 0) / 1000, float(marks[1] or 0) / 1000))
            browser.close()
    return times


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of finished runs, such as a sweep's")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs, page = Path(place) / "runs", Path(place) / "report.html"
        copy_runs(given.folder, runs, given.runs)
        start = time.perf_counter()
        words = [sys.executable, "-m", "qatlab", "report", str(runs), "-o", str(page)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        written = time.perf_counter() - start
        times = opened(page, given.browser, given.repeats)
        size = page.stat().st_size / 1e6
    table, charts = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{given.runs} runs: written in {written:.1f} s ({size:.1f} MB); "
        f"table after {table:.2f} s, all charts after {charts:.2f} s (medians of {given.repeats})"
    )


if __name__ == "__main__":
    main()
