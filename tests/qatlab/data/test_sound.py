"""Spectra and coefficients of sound, from their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from wav_files import write_wav

from qatlab.data.sound import (
    as_bytes,
    decibels,
    htk_filters,
    mfcc,
    read_wav,
    slaney_filters,
    spectra,
)
from qatlab.errors import DataError


def test_a_wav_file_is_read_as_parts_of_the_largest_sample(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    write_wav(file, np.array([0, 16384, -32768, 32767], np.int16))
    assert read_wav(file).tolist() == [0, 0.5, -1, 32767 / 32768]
    write_wav(file, np.array([1, 2, 3, 4], np.int16), channels=2)
    assert read_wav(file).tolist() == [1 / 32768, 3 / 32768]


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    write_wav(file, np.zeros(4, np.int16), rate=44_100)
    with pytest.raises(DataError, match=r"a\.wav has 44,100 samples per second of 16 bits; "):
        read_wav(file)
    for content in (b"", b"some text", b"RIFF\x04\x00\x00\x00WAVE"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.wav is damaged or no WAV file of PCM samples"):
            read_wav(file)


def test_a_tone_is_a_peak_of_a_quarter_of_the_window() -> None:
    # A wave of 8 periods in a window of 64: half of it in each of two bins, half of it by the
    # window's mean, and half of that in the bins beside it.
    samples = np.cos(2 * np.pi * 8 * np.arange(96) / 64)
    found = spectra(samples, window=64, stride=16)
    assert found.shape == (3, 33)
    expected = np.zeros(33)
    expected[7:10] = [8, 16, 8]
    assert np.allclose(found, expected, atol=1e-9)


def test_windows_are_filled_up_to_a_power_of_two() -> None:
    assert spectra(np.ones(16_000), window=640, stride=320).shape == (49, 513)
    assert spectra(np.ones(1024), window=1024, stride=512).shape == (1, 513)


def test_bands_on_the_scale_of_htk_overlap_by_half() -> None:
    filters = htk_filters(40, 4097, 20, 4000)
    frequencies = np.linspace(0, 8000, 4097)
    mels = 1127 * np.log(1 + frequencies / 700)
    low, high = (1127 * math.log(1 + f / 700) for f in (20, 4000))
    step = (high - low) / 41
    inside = (mels > low + step) & (mels < high - step)
    assert np.allclose(filters[inside].sum(1), 1)  # from the first centre to the last one
    assert filters[(frequencies < 20) | (frequencies > 4000)].max() == 0
    centres = mels[filters.argmax(0)]
    assert np.allclose(centres, low + step * np.arange(1, 41), atol=2)


def test_bands_on_the_scale_of_slaney_have_an_area_of_1() -> None:
    filters = slaney_filters(128, 100_001)
    assert np.allclose(filters.sum(0) * 8000 / 100_000, 1, atol=1e-2)
    # 1,000 Hz is mel 15; 8,000 Hz is 15 + 27 ln 8 / ln 6.4 = 45.2456; 129 steps lead there.
    centres = np.linspace(0, 8000, 100_001)[filters.argmax(0)]
    step = (15 + 27 * math.log(8) / math.log(6.4)) / 129
    assert centres[:3] == pytest.approx([200 / 3 * step * k for k in (1, 2, 3)], abs=0.1)
    assert centres[-1] == pytest.approx(8000 * 6.4 ** (-step / 27), abs=0.1)


def test_coefficients_of_silence_are_those_of_one_number() -> None:
    found = mfcc(np.zeros(16_000), window=640, stride=320, count=10)
    assert found.shape == (49, 10)
    assert found[:, 0] == pytest.approx(math.sqrt(80) * math.log(1e-6))
    assert np.allclose(found[:, 1:], 0, atol=1e-9)


def test_coefficients_are_a_cosine_transform_of_the_logarithms() -> None:
    samples = np.random.default_rng(0).normal(size=640)
    found = mfcc(samples, window=640, stride=320, count=10)[0]
    energies = spectra(samples, 640, 320)[0] @ htk_filters(40, 513, 20, 4000)
    for k in range(10):
        terms = (
            math.log(m + 1e-6) * math.cos(math.pi / 40 * (b + 0.5) * k)
            for b, m in enumerate(energies)
        )
        assert found[k] == pytest.approx(math.sqrt(2 / 40) * sum(terms))


def test_decibels_are_of_windows_centred_on_samples() -> None:
    silence = decibels(np.zeros(5120), window=1024, stride=512, bands=128)
    assert silence.shape == (11, 128)  # 5120 / 512 and the first one
    assert np.allclose(silence, 10 * math.log10(2.0**-52))
    click = np.zeros(5120)
    click[2048] = 1  # its spectrum is flat where it is the middle of a window
    found = decibels(click, window=1024, stride=512, bands=128)
    assert (found[4] > found[[3, 5]]).all()
    area = slaney_filters(128, 513).sum(0)
    assert np.allclose(found[4], 10 * np.log10(area + 2.0**-52))
    first = np.zeros(5120)
    first[100] = 1  # mirrored in front of the first window's centre
    assert decibels(first, 1024, 512, 128)[0].max() > decibels(first[50:], 1024, 512, 128)[0].min()


def test_bytes_are_steps_from_the_lowest_value() -> None:
    values = np.array([-9.0, -1.0, -0.74, 0.0, 99.0, 999.0])
    assert as_bytes(values, low=-1.0, step=0.5).tolist() == [0, 0, 1, 2, 200, 255]
