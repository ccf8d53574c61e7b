"""Sound as images: WAV files, spectra on the mel scale, and cepstral coefficients of them.

All in float64 with NumPy, by the formulas of the libraries that MLPerf Tiny's reference features
are computed with: TensorFlow's ``tf.signal`` for words, librosa for machines.
"""

from __future__ import annotations

import io
import math
import wave
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qatlab.data.contents import read_file
from qatlab.errors import DataError

RATE = 16_000  # samples per second, of all data sets here

Reals = NDArray[np.float64]
_LOGARITHMIC = 1000.0  # Hz from which Slaney's scale is logarithmic
_STEP = 200 / 3  # Hz of a mel below
_LOG_STEP = math.log(6.4) / 27  # of the logarithm of the frequency of a mel above


def read_wav(file: Path) -> Reals:
    """Return the samples of a WAV file, ``(n,)``, from -1 to 1; of several channels the first.

    Raises:
        DataError: for all but 16,000 samples per second of 16 bits.
    """
    content = read_file(file)
    try:
        with wave.open(io.BytesIO(content)) as opened:
            rate, width = opened.getframerate(), opened.getsampwidth()
            channels = opened.getnchannels()
            samples = opened.readframes(opened.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(f"{file} is damaged or no WAV file of PCM samples: {error}.") from error
    if (rate, width) != (RATE, 2):
        raise DataError(
            f"{file} has {rate:,} samples per second of {8 * width} bits; accepted are {RATE:,} of "
            "16 bits."
        )
    whole = len(samples) // (2 * channels) * channels
    return np.frombuffer(samples, "<i2", count=whole)[::channels] / 32768.0


def spectra(samples: Reals, window: int, stride: int) -> Reals:
    """Return absolute values of the short-time Fourier transform, ``(frames, bins)``.

    Windows are Hann's (periodic), filled with zeros to a power of two; there are as many as fit.

    Args:
        samples: ``(n,)``, at least a window of them.
        window: samples of a window.
        stride: samples from a window to the next.
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::stride]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    size = 1 << (window - 1).bit_length()
    return np.abs(np.fft.rfft(frames * hann, size))


@cache
def htk_filters(bands: int, bins: int, low: float, high: float) -> Reals:
    """Return what makes bands of a spectrum, ``(bins, bands)``, as ``tf.signal`` does.

    Triangles on HTK's scale, ``mel = 1127 ln(1 + f / 700)``, of height 1; nothing of 0 Hz.

    Args:
        bands: how many.
        bins: of the spectrum, from 0 Hz to half the rate.
        low: lower end of the first band, in Hz.
        high: upper end of the last band, in Hz.
    """

    def mel(frequency: Reals | float) -> Reals:
        return 1127 * np.log1p(np.asarray(frequency) / 700)

    edges = np.linspace(mel(low), mel(high), bands + 2)
    at = mel(np.linspace(0, RATE / 2, bins))[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling))
    filters[0] = 0
    return np.asarray(filters)


@cache
def slaney_filters(bands: int, bins: int) -> Reals:
    """Return what makes bands of a power spectrum, ``(bins, bands)``, as librosa does.

    Triangles in Hz, of area 1, whose corners are evenly spaced from 0 Hz to half the rate on
    Slaney's scale: linear up to 1,000 Hz, logarithmic above.

    Args:
        bands: how many.
        bins: of the spectrum, from 0 Hz to half the rate.
    """
    linear = _LOGARITHMIC / _STEP
    highest = linear + math.log(RATE / 2 / _LOGARITHMIC) / _LOG_STEP
    mels = np.linspace(0, highest, bands + 2)
    above = _LOGARITHMIC * np.exp(_LOG_STEP * (mels - linear))
    edges = np.where(mels < linear, _STEP * mels, above)
    at = np.linspace(0, RATE / 2, bins)[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (edges[2:] - edges[:-2]))


def mfcc(samples: Reals, window: int, stride: int, count: int) -> Reals:
    """Return mel-frequency cepstral coefficients, ``(frames, count)``, as ``tf.signal`` does.

        c_k = sqrt(2 / B) sum_b log(m_b + 1e-6) cos(pi / B (b + 1/2) k)

    for the energies ``m_b`` in B = 40 bands from 20 to 4,000 Hz.

    Args:
        samples: ``(n,)``, at least a window of them.
        window: samples of a window.
        stride: samples from a window to the next.
        count: coefficients of a window.
    """
    bands = 40
    spectrum = spectra(samples, window, stride)
    energies = spectrum @ htk_filters(bands, spectrum.shape[1], 20, 4000)
    at = np.arange(bands)[:, None] + 0.5
    cosines = np.cos(np.pi / bands * at * np.arange(count))
    return np.asarray(math.sqrt(2 / bands) * np.log(energies + 1e-6) @ cosines)


def decibels(samples: Reals, window: int, stride: int, bands: int) -> Reals:
    """Return the power in bands, ``(frames, bands)``, in decibels, as librosa does.

    Windows are centred on samples 0, ``stride``, ...; samples beyond the ends are those inside,
    mirrored.

    Args:
        samples: ``(n,)``, more than half a window of them.
        window: samples of a window.
        stride: samples from a window to the next.
        bands: of Slaney's scale.
    """
    whole = np.pad(samples, window // 2, mode="reflect")
    power = spectra(whole, window, stride) ** 2
    mel = power @ slaney_filters(bands, power.shape[1])
    return np.asarray(10 * np.log10(mel + np.finfo(np.float64).eps))


def as_bytes(values: Reals, low: float, step: float) -> NDArray[np.uint8]:
    """Return numbers as bytes, ``value = low + step * byte``; what is beyond them is cut off."""
    return np.clip(np.round((values - low) / step), 0, 255).astype(np.uint8)
