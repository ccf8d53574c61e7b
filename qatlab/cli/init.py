"""The command ``qatlab init FOLDER``: a project with a network, images and configurations."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qatlab.cli.parser import Parser
from qatlab.errors import ConfigError
from qatlab.system.files import write_bytes

PROJECT = Path(__file__).parent / "project"  # what is copied
SIDE = 32  # of an image, in pixels
IMAGES = {"train": 60, "test": 20}  # of each class
Grid = NDArray[np.float64]  # coordinates of pixels from the middle of a shape, in its radii
SHAPES: dict[str, Callable[[Grid, Grid], NDArray[np.bool_]]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.85,
    "triangle": lambda x, y: (y <= 0.5) & (abs(x) <= (y + 1) / np.sqrt(3)),
}


def main(words: Sequence[str]) -> None:
    """Run the command."""
    parser = Parser(
        prog="qatlab init",
        description="Make a project: a network, images of three classes, and their conf/.",
    )
    parser.add_argument("folder", type=Path, help="to be made; an empty one is taken, too")
    folder = parser.parse_args(words).folder
    check_empty(folder)
    for file in sorted(PROJECT.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            name = file.relative_to(PROJECT)
            # Setuptools and git would take a .gitignore here for one of qatlab's.
            name = Path(".gitignore") if name.name == "gitignore" else name
            write_bytes(folder / name, file.read_bytes())
    for path, image in images():
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png")
        write_bytes(folder / "images" / path, png.getvalue())
    print(f"written: {folder}, whose README.md has the commands. The first ones:")
    print(f"  cd {folder}\n  qatlab train experiment=first")


def check_empty(folder: Path) -> None:
    """Raise a ConfigError unless a folder is empty or not there."""
    try:
        if next(folder.iterdir(), None) is None:
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot use {folder}: {error.strerror}.") from error
    raise ConfigError(
        f"{folder} is not empty, and qatlab init writes over nothing. Accepted: a folder that is "
        "empty or not there yet."
    )


def images() -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Yield the places of all images and their pixels (32, 32, 3); the same ones each time."""
    for part, count in IMAGES.items():
        for label, shape in enumerate(SHAPES):
            for number in range(count):
                seed = [list(IMAGES).index(part), label, number]
                yield Path(part, shape, f"{number:02}.png"), draw(shape, seed)


def draw(shape: str, seed: Sequence[int]) -> NDArray[np.uint8]:
    """Return a bright shape of any colour, size, place and angle on a dark background, with noise.

    Args:
        shape: its name.
        seed: whole numbers; each list of them gives another image.
    """
    random = np.random.RandomState(seed)  # whose numbers no version of numpy changes
    radius = random.uniform(7, 11)
    middle = random.uniform(radius + 1, SIDE - radius - 1, size=2)
    angle = random.uniform(-0.2, 0.2)  # radians
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5 - middle[:, None, None]) / radius
    turned = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = SHAPES[shape](*turned)
    bright, dark = random.uniform(150, 230, size=3), random.uniform(20, 100, size=3)
    image = np.where(inside[..., None], bright, dark) + random.normal(0, 12, (SIDE, SIDE, 3))
    return image.clip(0, 255).astype(np.uint8)
