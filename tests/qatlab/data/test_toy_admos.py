"""ToyADMOS from small archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from wav_files import tone, write_wav

from qatlab.data import ImageData, ToyAdmos
from qatlab.data.sound import decibels, read_wav
from qatlab.errors import DataError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    clips = {
        "train": ("normal_id_01_00000000", "normal_id_02_00000000"),
        "test": ("anomaly_id_01_00000000", "normal_id_01_00000000"),
    }
    for part, names in clips.items():
        for number, name in enumerate(names):
            clip = tone(8.5, 300 * (number + 1)) + tone(8.5, 40, 200)
            write_wav(tmp_path / "ToyCar" / part / f"{name}.wav", clip)
    return tmp_path


def test_a_clip_is_196_images_of_five_spectra(archive: Path) -> None:
    source = ToyAdmos(str(archive))
    images, labels = source.training_set()
    assert (images.dtype, images.shape) == (torch.uint8, (2 * 196, 1, 5, 128))
    assert labels.unique().tolist() == [0]
    assert torch.equal(images[1, 0, :4], images[0, 0, 1:])  # each begins one later
    found = images[0, 0].double() * 0.392 - 85
    file = archive / "ToyCar" / "train" / "normal_id_01_00000000.wav"
    expected = decibels(read_wav(file), 1024, 512, 128)[50:55].clip(-85, -85 + 255 * 0.392)
    assert np.abs(found.numpy() - expected).max() <= 0.392 / 2 + 1e-9


def test_names_of_files_tell_damaged_cars(archive: Path) -> None:
    source = ToyAdmos(str(archive))
    assert source.class_names == ("normal", "anomaly")
    assert source.test_set().labels.tolist() == [1] * 196 + [0] * 196
    data = ImageData(source, [5, 128], 64, 64, 0.1, 0, 0, 0, False)
    assert data.images_per_score == 196


def test_what_is_wrong_is_reported(archive: Path) -> None:
    source = ToyAdmos(str(archive))
    test = archive / "ToyCar" / "test"
    write_wav(test / "broken_id_01.wav", tone(9))
    with pytest.raises(DataError, match=r"broken_id_01\.wav has a name that begins neither with"):
        source.test_set()
    write_wav(test / "broken_id_01.wav", tone(0.1))
    (test / "broken_id_01.wav").rename(test / "normal_id_09.wav")
    with pytest.raises(DataError, match=r"normal_id_09\.wav is too short: 127,488 samples are"):
        source.test_set()
    (archive / "ToyCar" / "train").rename(archive / "elsewhere")
    told = (
        r"data\.source\.folder: '.*ToyCar/train' .* is not a folder; the archive 'dev_data_ToyCar"
    )
    with pytest.raises(DataError, match=told):
        source.training_set()
