"""Speech Commands: spoken words as images of cepstral coefficients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qatlab.data.file_sources import existing
from qatlab.data.folders import listing, subfolders
from qatlab.data.sound import RATE, Reals, as_bytes, mfcc, read_wav
from qatlab.data.sources import LabelledImages
from qatlab.data.transforms.limits import whole_number
from qatlab.errors import DataError

STRIDE = 320  # samples, 20 ms
COUNT = 10  # coefficients
STEP = 0.5847  # of a byte; silence is -123.6 = sqrt(2 * 40) ln 1e-6
ZERO = 211  # the byte of 0, with which networks pad

Clip = tuple[NDArray[np.uint8], int]  # an image, (49, 10), and its label
_NOISE = "_background_noise_"
_WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
_EXPECTED = (
    "the archives 'speech_commands_v0.02.tar.gz' and 'speech_commands_test_set_v0.02.tar.gz' are "
    "expected there, unpacked into folders of their names"
)


class SpeechCommands:
    """Words of Speech Commands v0.02 (Warden 2018, arXiv:1804.03209), as MLPerf Tiny takes them.

    Ten words, silence, and all other words, each a second of sound: 85,511 clips for training,
    10,102 for validation behind them, 4,890 for the test. A clip is an image of 49 windows (rows)
    of 10 coefficients, see :func:`~qatlab.data.sound.mfcc`, after its largest sample was made 1.
    Silence is cut out of the recordings of noise every half second; those of a running tap are for
    validation. Bytes stand for ``0.5847 * (byte - 211)``.

    The benchmark mixes random noise into the clips that it trains on, which is not done here.

    Args:
        folder: holds ``speech_commands_v0.02/`` and ``speech_commands_test_set_v0.02/``.
        window_ms: milliseconds of a window; one begins every 20 ms.
    """

    class_names: tuple[str, ...] = (*_WORDS, "_silence_", "_unknown_")
    channels: int = 1

    def __init__(self, folder: str, window_ms: int = 40) -> None:
        self.folder = Path(folder)
        self.window = RATE * whole_number("data.source.window_ms", window_ms, 21, 40) // 1000

    def training_set(self) -> LabelledImages:
        """Read the clips for training; behind them are those for validation."""
        root = existing(self.folder / "speech_commands_v0.02", _EXPECTED)
        kept = {name: self._listed(root / f"{name}_list.txt") for name in ("validation", "testing")}
        words = [name for name in subfolders(root) if name != _NOISE]
        if missing := {*_WORDS} - {*words}:
            raise DataError(
                f"data.source.folder: '{root}' has no folder '{min(missing)}'; {_EXPECTED}."
            )
        parts: tuple[list[Clip], ...] = ([], [])  # for training, for validation
        for word in words:
            label = self.class_names.index(word if word in _WORDS else "_unknown_")
            for file in wav_files(root / word):
                name = f"{word}/{file.name}"
                if name not in kept["testing"]:
                    parts[name in kept["validation"]].append((self._features(file), label))
        silence = self.class_names.index("_silence_")
        for file in wav_files(existing(root / _NOISE, _EXPECTED)):
            samples = read_wav(file)
            starts = range(0, len(samples) - RATE, RATE // 2)
            clips = (self._image(samples[start : start + RATE]) for start in starts)
            parts[file.name == "running_tap.wav"].extend((clip, silence) for clip in clips)
        return _labelled([*parts[0], *parts[1]])

    def test_set(self) -> LabelledImages:
        """Read the clips for the test, which have an archive of their own."""
        root = existing(self.folder / "speech_commands_test_set_v0.02", _EXPECTED)
        return _labelled(
            (self._features(file), label)
            for label, name in enumerate(self.class_names)
            for file in wav_files(existing(root / name, _EXPECTED))
        )

    def _listed(self, file: Path) -> frozenset[str]:
        """Return the names in a list of clips."""
        try:
            return frozenset(file.read_text("utf-8").split())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data.source.folder: '{file}' cannot be read; {_EXPECTED}.") from error

    def _features(self, file: Path) -> NDArray[np.uint8]:
        return self._image(read_wav(file)[:RATE])

    def _image(self, samples: Reals) -> NDArray[np.uint8]:
        """Return the bytes of a clip of at most a second, ``(49, 10)``."""
        largest = samples.max(initial=0)
        loud = samples / largest if largest > 0 else samples
        whole = np.pad(loud, (0, RATE - len(loud)))
        return as_bytes(mfcc(whole, self.window, STRIDE, COUNT), -ZERO * STEP, STEP)


def wav_files(folder: Path) -> Sequence[Path]:
    """Return the WAV files in a folder, sorted.

    Raises:
        DataError: if there are none.
    """
    found = [Path(entry.path) for entry in listing(folder) if entry.name.lower().endswith(".wav")]
    if not found:
        raise DataError(f"{folder} holds no WAV files; delete it or fill it.")
    return found


def _labelled(clips: Iterable[Clip]) -> LabelledImages:
    images, labels = zip(*clips, strict=True)
    return LabelledImages(torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels))
