"""Makes WAV files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_wav(
    file: Path, samples: NDArray[np.int16], rate: int = 16_000, channels: int = 1
) -> None:
    """Write samples of 16 bits, ``(n,)``, those of several channels in turn."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as opened:
        opened.setnchannels(channels)
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(samples.astype("<i2").tobytes())


def tone(seconds: float, hertz: float = 440.0, loudness: float = 8000) -> NDArray[np.int16]:
    """Return a pure tone."""
    times = np.arange(int(16_000 * seconds)) / 16_000
    return (loudness * np.sin(2 * np.pi * hertz * times)).astype(np.int16)
