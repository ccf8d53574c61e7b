"""Speech Commands from small archives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from wav_files import tone, write_wav

from qatlab.data import SpeechCommands
from qatlab.errors import DataError

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
CLASSES = (*WORDS, "_silence_", "_unknown_")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three clips of each word: the second is for validation, the third is not to be seen."""
    root = tmp_path / "speech_commands_v0.02"
    words = (*WORDS, "bed", "cat")
    for number, word in enumerate(words):
        for name in "abc":
            write_wav(root / word / f"{name}.wav", tone(0.7, 300 + 100 * number))
    for name, clip in (("validation", "b"), ("testing", "c")):
        (root / f"{name}_list.txt").write_text("".join(f"{w}/{clip}.wav\n" for w in words))
    write_wav(root / "_background_noise_" / "pink_noise.wav", tone(2.6))
    write_wav(root / "_background_noise_" / "running_tap.wav", tone(1.6))
    for name in CLASSES:
        write_wav(tmp_path / "speech_commands_test_set_v0.02" / name / "a.wav", tone(1.3))
    return tmp_path


def test_clips_are_divided_as_the_archive_says(archive: Path) -> None:
    source = SpeechCommands(str(archive))
    assert source.class_names == CLASSES
    images, labels = source.training_set()
    assert (images.dtype, images.shape) == (torch.uint8, (30, 1, 49, 10))
    # Words, of which two are unknown; of 2.6 s of noise what begins at 0, 0.5, 1 and 1.5 s.
    in_order = [11, 11, *range(10)]  # bed and cat are the first ones by name
    assert labels.tolist() == [*in_order, *[10] * 4, *in_order, *[10] * 2]
    images, labels = source.test_set()
    assert images.shape == (12, 1, 49, 10)
    assert labels.tolist() == [*range(12)]


def test_a_clip_is_bytes_of_its_coefficients(archive: Path) -> None:
    file = archive / "speech_commands_test_set_v0.02" / "down" / "a.wav"
    write_wav(file, np.zeros(8000, np.int16))
    image = SpeechCommands(str(archive)).test_set().images[0, 0]
    assert image[:, 1:].unique().tolist() == [211]  # of 0
    assert image[:, 0].unique().tolist() == [0]  # of -123.57 / 0.5847 + 211 = -0.3
    made = []
    for factor in (1, 2):
        write_wav(file, factor * tone(1.0, loudness=8000))
        made.append(SpeechCommands(str(archive)).test_set().images[0])
    assert torch.equal(*made)  # however loud: the largest sample is 1
    assert made[0][0, :, 0].min() > 0


def test_a_network_gets_zeros_for_coefficients_of_zero(archive: Path, repository: Path) -> None:
    silent = archive / "speech_commands_test_set_v0.02" / "down" / "a.wav"
    write_wav(silent, np.zeros(16_000, np.int16))
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        words = ["+seed=1", f"data.source.folder={archive}", "data.validation=14"]
        data = instantiate(compose("data/speech_commands", overrides=words).data)
    data.setup("test")
    images, labels = next(iter(data.test_dataloader()))
    assert labels[0] == 0
    assert images[0, 0, :, 1:].unique().tolist() == [0]
    assert images[0, 0, :, 0].unique().tolist() == [-211 / 128]
    data.setup("fit")
    held_out = [label for _, labels in data.val_dataloader() for label in labels.tolist()]
    assert held_out == [11, 11, *range(10), 10, 10]  # those of the list, and of the running tap


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (
            "speech_commands_v0.02",
            r"data\.source\.folder: .*v0\.02' .* is not a folder; the archives",
        ),
        ("speech_commands_v0.02/yes", r"data\.source\.folder: .* has no folder 'yes'; the arch"),
        ("speech_commands_v0.02/testing_list.txt", r"testing_list\.txt' cannot be read; the arch"),
        ("speech_commands_v0.02/cat/a.wav", r"cat holds no WAV files"),
    ],
)
def test_what_is_missing_is_reported(archive: Path, missing: str, told: str) -> None:
    (archive / missing).rename(archive / "elsewhere")
    for file in (archive / missing).parent.glob("[bc].wav"):
        file.unlink()
    with pytest.raises(DataError, match=told):
        SpeechCommands(str(archive)).training_set()


def test_the_test_set_has_an_archive_of_its_own(archive: Path) -> None:
    (archive / "speech_commands_test_set_v0.02").rename(archive / "elsewhere")
    with pytest.raises(DataError, match=r"speech_commands_test_set_v0\.02' .* is not a folder; "):
        SpeechCommands(str(archive)).test_set()
