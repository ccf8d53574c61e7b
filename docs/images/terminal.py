"""Makes terminal.svg, what a short training prints: ``python docs/images/terminal.py``."""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
COLUMNS = 130
WORDS = (
    *("train.py", "quant=sat_4bit", "model=lenet", "schedule.first_epochs=1"),
    "schedule.quantize_epochs=2",
)


def printed(words: tuple[str, ...]) -> str:
    """Return what a command prints on a terminal; of a line that is written over, the last."""
    told = bytearray()

    def read(descriptor: int) -> bytes:
        content = os.read(descriptor, 1024)
        told.extend(content)
        return content

    os.environ["COLUMNS"] = str(COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        pty.spawn([sys.executable, *words, f"hydra.run.dir={folder}/lenet_sat_4bit"], read)
        text = told.decode(errors="replace").replace(folder, "outputs/runs")
    return shown(text)


def shown(text: str) -> str:
    """Return what a terminal shows in the end: lines that are written over, and cursors moved."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r*\n|\r|[^\x1b\r\n]+", text):
        if part.endswith("\n"):
            at += 1
            lines += [""] * (at == len(lines))
        elif part == "\r" or part.endswith("K"):
            lines[at] = ""  # what comes next is written over it
        elif part.endswith("A"):
            at = max(at - int(part[2:-1] or 1), 0)
        elif not part.startswith("\x1b") or part.endswith("m"):
            lines[at] += part
    return "\n".join(lines)


def main() -> None:
    """Write the picture."""
    os.chdir(ROOT)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text(f"$ python {' '.join(WORDS)}", style="bold"))
        console.print(Text.from_ansi(printed(WORDS).strip("\n")))
        svg = console.export_svg(title="qatlab")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # of a server
    (ROOT / "docs/images/terminal.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
