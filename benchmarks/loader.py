"""Images per second that data=imagenet makes ready for training, and that decoding alone gives.

    python -m benchmarks.loader [--images 500] [--repeats 10] [--rounds 5] [--cores 1 2]

JPEG files of 500x375 pixels are made in a temporary folder. On each number of cores, as many
workers handle them: for the training pipeline of conf/data/imagenet.yaml, up to normalised floats
in the main process, on the same cores; for the same up to bytes in the memory of the main process,
which is all that is left to do where a GPU makes the floats; and for loops that decode and forget.
All take turns, so that the machine's speed of the moment is the same for all; ratios are medians
over rounds, of wall time, and of CPU time of all processes, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode

from qatlab import config
from qatlab.data import FileLoader, ImageFiles, LabelledFiles
from qatlab.data.transforms.transform import Part

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH, QUALITY = 375, 500, 90
CLASSES = 10
BATCH = 100  # images per batch
LOADER, BYTES = "data=imagenet", "its bytes alone"
DECODERS = ("Pillow decodes", "Pillow to an array", "libjpeg-turbo decodes")

Times = tuple[float, float]  # wall seconds, CPU seconds of all processes


def textures(rng: np.random.Generator, size: int = 1024) -> NDArray[np.float32]:
    """Return four fields of noise whose amplitudes fall with frequency as in photographs."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    shape = (4, *frequency.shape)
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency**1.1
    fields = np.fft.irfft2(spectrum, (size, size))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return np.asarray(fields, dtype=np.float32)


def photograph(fields: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image of textures and discs that hide one another, (375, 500, 3)."""

    def texture() -> NDArray[np.float32]:
        top, left = rng.integers(0, fields.shape[1] - WIDTH, 2)
        return fields[rng.integers(len(fields)), top : top + HEIGHT, left : left + WIDTH]

    light, red, blue = texture().copy(), texture(), texture()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(12):
        row, column, radius = rng.uniform((0, 0, 10), (HEIGHT, WIDTH, 90))
        inside = np.hypot(rows - row, columns - column) < radius
        light[inside] = 0.5 * light[inside] + rng.normal()
    levels = [110 + 45 * light + 12 * tint for tint in (red, 0 * red, blue)]
    return np.stack(levels, axis=2).clip(0, 255).astype(np.uint8)


def write_photographs(folder: Path, count: int) -> int:
    """Write training images and one for validation of each class; return the mean size in bytes."""
    rng = np.random.default_rng(0)
    fields = textures(rng)
    sizes = []
    for number in range(count):
        file = folder / "train" / f"{number % CLASSES:02}" / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(fields, rng)).save(file, quality=QUALITY)
        sizes.append(file.stat().st_size)
    return round(statistics.mean(sizes))


class Repeated:
    """A source whose training images come several times, so that an epoch is long.

    Args:
        source: the real one.
        repeats: how often each image comes.
    """

    def __init__(self, source: Any, repeats: int) -> None:
        self.source = source
        self.class_names = source.class_names
        self.channels = source.channels
        self.repeats = repeats

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return the files of a part."""
        files: LabelledFiles = self.source.files(part, split, seed)
        return files.select(np.tile(np.arange(len(files.labels)), self.repeats))


class HandedOver:
    """A loader whose batches are copied once, as into memory that a GPU reads, and left as bytes.

    Args:
        loader: the real one.
    """

    def __init__(self, loader: FileLoader) -> None:
        self.loader = copy(loader)
        self.loader._transformed = self.copied  # type: ignore[method-assign]
        self.memory = torch.empty(0)

    def copied(self, x: Tensor, epoch: int, batch: int) -> Tensor:
        """Stand for what is done on the device."""
        if len(self.memory) < len(x):
            self.memory = torch.empty_like(x)
        return self.memory[: len(x)].copy_(x)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch."""
        return iter(self.loader)


class Decoding(Dataset[int]):
    """Decodes the files of a batch and forgets them.

    Args:
        files: all files.
        decode: decodes one.
    """

    def __init__(self, files: LabelledFiles, decode: Callable[[str], object]) -> None:
        self.files = files
        self.decode = decode

    def __getitem__(self, images: list[int]) -> int:
        """Return the number of images."""
        for image in images:
            self.decode(self.files.file(image))
        return len(images)


def with_pillow(file: str) -> None:
    """Decode and leave the pixels where Pillow has them."""
    with Image.open(file) as image:
        image.load()


def with_pillow_to_array(file: str) -> None:
    """Decode to what anything else can be made of."""
    with Image.open(file) as image:
        np.asarray(image)


def with_turbojpeg(file: str) -> None:
    """Decode to a tensor with libjpeg-turbo as torchvision calls it."""
    content = torch.from_numpy(np.fromfile(file, dtype=np.uint8))
    torch.ops.image.decode_jpeg(content, ImageReadMode.RGB.value, False)


def candidates(folder: Path, repeats: int, workers: int) -> dict[str, Callable[[], int]]:
    """Return what handles each training image ``repeats`` times, and tells how many there were."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"data.source.folder={folder}", "data.source.num_classes=null"]
        words += ["data=imagenet", f"data.batch_size={BATCH}", f"data.workers={workers}"]
        data = instantiate(compose("config", words).data)
    assert isinstance(data, ImageFiles)
    data.source = Repeated(data.source, repeats)
    loader = data.train_dataloader()
    files = loader.batches.files
    order = np.random.default_rng(0).permutation(len(files.labels)).tolist()
    orders = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def decoding(decode: Callable[[str], object]) -> Callable[[], int]:
        batches = Decoding(files, decode)
        return lambda: sum(
            DataLoader(batches, batch_size=None, sampler=orders, num_workers=workers)
        )

    decoders = (with_pillow, with_pillow_to_array, with_turbojpeg)
    return {
        LOADER: lambda: sum(len(y) for _, y in loader),
        BYTES: lambda: sum(len(y) for _, y in HandedOver(loader)),
        **{name: decoding(decode) for name, decode in zip(DECODERS, decoders, strict=True)},
    }


def timed(work: Callable[[], int], expected: int) -> Times:
    """Return how long the work takes."""

    def cpu() -> float:
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        return sum(one.ru_utime + one.ru_stime for one in usage)

    start = time.perf_counter(), cpu()
    assert work() == expected
    return time.perf_counter() - start[0], cpu() - start[1]


def rounds(
    works: dict[str, Callable[[], int]], count: int, expected: int
) -> Iterator[dict[str, Times]]:
    """Yield the times of each round; whoever was first is the last of the next one."""
    names = list(works)
    for _ in range(count):
        yield {name: timed(works[name], expected) for name in names}
        names = names[1:] + names[:1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    config.register()
    cores = sorted(os.sched_getaffinity(0))
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        size = write_photographs(Path(folder), args.images)
        print(f"{args.images} JPEG files of {WIDTH}x{HEIGHT} pixels and {size:,} bytes")
        n_images = args.images * args.repeats
        for n_cores in args.cores:
            os.sched_setaffinity(0, cores[:n_cores])
            works = candidates(Path(folder), args.repeats, workers=n_cores)
            report(n_cores, n_images, list(rounds(works, args.rounds, n_images)))


def report(n_cores: int, n_images: int, measured: list[dict[str, Times]]) -> None:
    """Print the table of one number of cores."""
    print(
        f"\n{n_cores} core{'s' * (n_cores > 1)}, {n_cores} worker{'s' * (n_cores > 1)}\n\n"
        f"| | images/s | of it, {LOADER} gives | {BYTES} | by CPU time | {BYTES} |\n"
        "|---|---|---|---|---|---|"
    )
    for name in measured[0]:
        rate = n_images / statistics.median(times[name][0] for times in measured)
        ratios = [
            statistics.median(times[name][kind] / times[other][kind] for times in measured)
            for kind in (0, 1)
            for other in (LOADER, BYTES)
        ]
        print(f"| {name} | {rate:.0f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


if __name__ == "__main__":
    main()
