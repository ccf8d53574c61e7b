"""Which networks can teach which."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from qatlab.errors import ConfigError
from qatlab.run import teacher
from qatlab.run.teacher import distillation_of


def built(classes: int = 10, channels: int = 1, classifies: bool = True, scale: int = 1) -> Any:
    data = SimpleNamespace(
        num_classes=classes, scale=scale, example_input=lambda: torch.zeros(1, channels, 8, 8)
    )
    return SimpleNamespace(data=data, model=nn.Flatten(), classifies=classifies)


@pytest.fixture(autouse=True)
def scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "pixel_codes", lambda data: [data.scale])


def test_a_run_alone_has_the_usual_settings() -> None:
    made = distillation_of(OmegaConf.create({"distill": "a/run"}), built(), built())
    assert made is not None
    assert (made.temperature, made.weight) == (4.0, 0.5)


def test_without_a_teacher_there_is_nothing_to_learn_from() -> None:
    cfg = OmegaConf.create({"distill": {"teacher": None, "temperature": 4.0, "weight": 0.5}})
    assert teacher.teacher_of(cfg) is None
    assert distillation_of(cfg, None, built()) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (built(classes=7), "distill.teacher=a/run knows 7 classes, and the data has 10."),
        (built(channels=3), "takes images (3, 8, 8), and those of the data are (1, 8, 8)."),
        (built(scale=2), "was trained with other data.transforms"),
        (built(classifies=False), "both networks need a loss with classes."),
    ],
)
def test_a_network_of_other_images_or_classes_is_no_teacher(other: Any, words: str) -> None:
    cfg = OmegaConf.create({"distill": {"teacher": "a/run"}})
    with pytest.raises(ConfigError) as caught:
        distillation_of(cfg, other, built())
    assert words in str(caught.value)
