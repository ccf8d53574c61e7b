"""Makes the pictures of docs/report.md: ``python docs/images/report.py``; needs Chromium.

They show the committed runs of one network, as ``qatlab report`` writes their page: in light and
dark colours, on a phone, and printed on A4. That of paper needs ``pip install pypdfium2``, as
browsers write PDF only.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs/resnet20_cifar10_jpeg"
LARGEST = 300_000  # bytes of a picture
PINNED = ("lsq_2bit", "lsq_8bit")  # side by side
SIDES = ("top", "right", "bottom", "left")


def opened(browser: Any, page: Path, width: int, height: int, dark: bool = False) -> Any:
    """Return the page with two runs pinned and the first one open, all charts drawn."""
    scheme = "dark" if dark else "light"
    shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    pins = "&".join(f"pin=setting%3A{name}" for name in PINNED)
    shown.goto(f"{page.as_uri()}#{pins}&open=setting%3A{PINNED[0]}")
    shown.wait_for_selector("html[data-drawn]", state="attached")
    shown.wait_for_selector("#run-classes .main-svg", state="attached")
    shown.wait_for_timeout(500)
    return shown


def write(picture: Image.Image, name: str) -> None:
    """Write a picture, and say how large it is."""
    content = io.BytesIO()
    picture.convert("RGB").save(content, "PNG", optimize=True)
    if len(content.getvalue()) > LARGEST:
        sys.exit(f"Error: {name} has {len(content.getvalue()):,} bytes; at most {LARGEST:,}.")
    (HERE / name).write_bytes(content.getvalue())
    print(f"{name}: {len(content.getvalue()):,} bytes")


def screen(shown: Any, bottom: str) -> Image.Image:
    """Return the page from its top to the end of an element."""
    end = shown.locator(bottom).evaluate("(it) => it.getBoundingClientRect().bottom + scrollY")
    image = Image.open(io.BytesIO(shown.screenshot(full_page=True)))
    return image.crop((0, 0, image.width, min(image.height, int(end) + 12)))


def paper(shown: Any) -> Image.Image:
    """Return the first two sheets of A4, side by side."""
    import pypdfium2  # type: ignore[import-not-found,import-untyped]  # for this picture only

    printed = shown.pdf(format="A4", print_background=True, margin=dict.fromkeys(SIDES, "12mm"))
    sheets = [page.render(scale=1.2).to_pil() for page in pypdfium2.PdfDocument(printed)][:2]
    width, height = sheets[0].size
    both = Image.new("RGB", (2 * width + 36, height + 24), "#8a9099")
    for i, sheet in enumerate(sheets):
        both.paste(sheet, (12 + i * (width + 12), 12))
    return both


def main() -> None:
    """Write the four pictures beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        page = Path(place) / "report.html"
        words = [sys.executable, "-m", "qatlab", "report", str(RUNS), "-o", str(page)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        write(screen(opened(browser, page, 1280, 900), "#parallel"), "report_light.png")
        write(screen(opened(browser, page, 1280, 900, dark=True), "#parallel"), "report_dark.png")
        write(screen(opened(browser, page, 390, 844), "#front-bytes"), "report_phone.png")
        write(paper(opened(browser, page, 1280, 900)), "report_print.png")
        browser.close()


if __name__ == "__main__":
    main()
