from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qatlab.data import FileLoader, ImageFiles, ImageFolder, LabelledFiles, file_sources
from qatlab.data.transforms import SliceExtraction
from qatlab.data.transforms.transform import Part
from qatlab.errors import ConfigError, DataError

BAD = (3, 17, 18)


@pytest.fixture(autouse=True)
def half_may_be_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sources, "MOST_BAD", 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images whose level tells their number, in two classes; three cannot be decoded."""
    for number in range(20):
        file = tmp_path / ("even", "odd")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 10 * number, dtype=np.uint8)).save(file)
        if number in BAD:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
    return tmp_path


def data(folder: Path, **changes: Any) -> ImageFiles:
    arguments: dict[str, Any] = {
        **{"image_size": (4, 4), "batch_size": 6, "eval_batch_size": 6, "split": "in_order"},
        **{"split_seed": 0, "shuffle_seed": 1, "workers": 0, "bad_images": "skip"},
    }
    return ImageFiles(ImageFolder(str(folder), 1), **{**arguments, **changes})


def seen(loader: FileLoader) -> list[list[int]]:
    """Return the numbers of the images in each batch; check their labels."""
    batches = []
    for x, y in loader:
        numbers = (x[:, 0, 0, 0] * 255 / 10).round().long()
        assert torch.equal(numbers % 2, y)
        batches.append(numbers.tolist())
    return batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_device", [False, True])
def test_images_that_cannot_be_decoded_are_left_out_of_their_batches_and_counted(
    folder: Path, capsys: pytest.CaptureFixture[str], workers: int, on_device: bool
) -> None:
    loader = data(folder, workers=workers, on_device=on_device).train_dataloader()
    found = seen(loader)
    order = loader.sampler.draw(torch.device("cpu")).order
    numbers = [[*range(0, 20, 2), *range(1, 20, 2)][place] for place in order]
    expected = [[n for n in numbers[i : i + 6] if n not in BAD] for i in range(0, 20, 6)]
    assert found == expected
    bad = next(number for number in numbers if number in BAD)
    told = capsys.readouterr().out
    assert told.startswith(
        "3 of 20 training images could not be decoded and were left out; the first: "
    )
    assert f"/{bad:02}.png is not an image" in told
    assert told.count("\n") == 1
    seen(loader)
    assert capsys.readouterr().out == ""  # nothing new in the next epoch


def test_it_is_called_with_the_last_batch_and_when_there_are_no_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = iter(data(folder).train_dataloader())
    for _ in range(3):
        next(batches)
    assert capsys.readouterr().out == ""
    next(batches)  # a trainer that knows the number of batches asks for no more
    assert capsys.readouterr().out.startswith("3 of 20 training images")
    batches = iter(data(folder, batch_size=19).train_dataloader())
    next(batches)
    assert capsys.readouterr().out == ""
    batches.close()  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith("3 of 19 training images")


def test_a_resumed_epoch_has_the_batches_of_a_whole_one(folder: Path) -> None:
    whole = seen(data(folder).train_dataloader())
    part = data(folder).train_dataloader()
    batches = iter(part)
    for _ in range(2):
        next(batches)
    resumed = data(folder, workers=1).train_dataloader()
    resumed.load_state_dict(part.state_dict())
    assert seen(resumed) == whole[2:]


@pytest.mark.parametrize("share", [0.15, 0.14])
def test_more_than_a_few_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(file_sources, "MOST_BAD", share)
    if share == 0.15:  # 3 of 20
        seen(data(folder).train_dataloader())
        return
    with pytest.raises(DataError, match=r"^3 of 20 training images cannot be decoded, more than"):
        seen(data(folder).train_dataloader())


def test_they_are_an_error_unless_it_is_said(folder: Path) -> None:
    with pytest.raises(DataError, match=r"\d\d\.png is not an image"):
        seen(data(folder, bad_images="error").train_dataloader())
    with pytest.raises(ConfigError, match=r"data\.bad_images=ignore is wrong\..* error, skip"):
        data(folder, bad_images="ignore")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_is_never_empty(folder: Path, workers: int) -> None:
    loader = data(folder, batch_size=1, workers=workers).train_dataloader()
    with pytest.raises(DataError, match=r"^no image of a whole batch can be decoded; the first: /"):
        seen(loader)


def test_what_a_transform_cannot_do_is_no_matter_of_decoding(folder: Path) -> None:
    transforms = {"slice": SliceExtraction(9, 9)}
    with pytest.raises(DataError, match=r"data\.transforms\.slice wants 9x9 pixels"):
        seen(data(folder, transforms=transforms).train_dataloader())


class Mistaken(ImageFolder):
    """A source whose labels do not fit its class names."""

    def files(self, part: Part, split: str, seed: int) -> LabelledFiles:
        """Return files with labels that are too high by one."""
        files = super().files(part, split, seed)
        return files._replace(labels=files.labels + 1)


def test_labels_that_no_class_has_are_reported(folder: Path) -> None:
    module = data(folder)
    module.source = Mistaken(str(folder), 1)
    with pytest.raises(DataError, match=r"training images with labels from 1 to 2; .* 0 to 1"):
        module.setup("fit")
