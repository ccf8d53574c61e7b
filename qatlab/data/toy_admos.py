"""ToyADMOS: the sound of toy cars, whole and damaged, as images of spectra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qatlab.data.file_sources import existing
from qatlab.data.sound import as_bytes, decibels, read_wav
from qatlab.data.sources import LabelledImages
from qatlab.data.speech_commands import wav_files
from qatlab.errors import DataError

FRAMES, BANDS = 5, 128  # of an image
FIRST, LAST = 50, 250  # frames of a clip that are taken
LOWEST, STEP = -85.0, 0.392  # decibels: of byte 0, and of one more

_EXPECTED = (
    "the archive 'dev_data_ToyCar.zip' of DCASE 2020, task 2, is expected there, unpacked: "
    "'ToyCar/train/' and 'ToyCar/test/'"
)


class ToyAdmos:
    """ToyCar of ToyADMOS (Koizumi et al. 2019, arXiv:1908.03299), as MLPerf Tiny takes it.

    The development data of DCASE 2020, task 2: 4,000 clips of whole cars for training, 2,459 of
    whole and damaged ones for the test. Of each clip 200 spectra are taken, in the middle of it,
    and five in a row are an image of 5 x 128 decibels, see :func:`~qatlab.data.sound.decibels`.
    Bytes stand for ``0.392 * byte - 85`` decibels.

    Args:
        folder: holds ``ToyCar/train/`` and ``ToyCar/test/``; the name of a clip begins with
            ``normal`` or ``anomaly``.
    """

    class_names: tuple[str, ...] = ("normal", "anomaly")
    channels: int = 1
    images_per_score: int = LAST - FIRST - FRAMES + 1  # 196: the images of a clip

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def training_set(self) -> LabelledImages:
        """Read the clips of whole cars, 784,000 images."""
        return self._read("train")

    def test_set(self) -> LabelledImages:
        """Read the clips of whole and damaged cars; the images of a clip follow each other."""
        return self._read("test")

    def _read(self, part: str) -> LabelledImages:
        files = wav_files(existing(self.folder / "ToyCar" / part, _EXPECTED))
        labels = torch.tensor([self._label(file) for file in files])
        return LabelledImages(
            torch.from_numpy(_images(files)), labels.repeat_interleave(self.images_per_score)
        )

    def _label(self, file: Path) -> int:
        for label, name in enumerate(self.class_names):
            if file.name.startswith(name):
                return label
        raise DataError(
            f"{file} has a name that begins neither with 'normal' nor with 'anomaly'; {_EXPECTED}."
        )


def _images(files: Sequence[Path]) -> NDArray[np.uint8]:
    """Return the images of clips, ``(N, 1, 5, 128)``."""
    each = ToyAdmos.images_per_score
    found = np.empty((len(files) * each, 1, FRAMES, BANDS), np.uint8)
    for number, file in enumerate(files):
        spectra = decibels(read_wav(file), window=1024, stride=512, bands=BANDS)[FIRST:LAST]
        if len(spectra) < LAST - FIRST:
            raise DataError(
                f"{file} is too short: {512 * (LAST - 1):,} samples are needed, about 8 seconds."
            )
        codes = as_bytes(spectra, LOWEST, STEP)
        rows = np.lib.stride_tricks.sliding_window_view(codes, FRAMES, axis=0)
        found[number * each : (number + 1) * each, 0] = rows.transpose(0, 2, 1)
    return found
