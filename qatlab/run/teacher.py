"""The trained network that a run learns from: ``distill`` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qatlab.config import allowed_names
from qatlab.deploy.pixels import pixel_codes
from qatlab.errors import ConfigError, QatlabError, unknown, wrong
from qatlab.run.build import Built
from qatlab.run.loading import load_run
from qatlab.training.distillation import Distillation

KEYS = ("teacher", "temperature", "weight")


def teacher_of(cfg: DictConfig) -> Built | None:
    """Return the run that ``cfg.distill`` names, with its best weights; None without a teacher.

    It is to be called before the network itself is made, which begins the random numbers anew.

    Raises:
        ConfigError: if it is no finished run.
    """
    run = _settings(cfg)["teacher"]
    if run is None:
        return None
    try:
        return load_run(Path(run), allow=allowed_names(cfg.allow))
    except QatlabError as error:
        raise ConfigError(f"distill.teacher={run}: {error}") from error


def distillation_of(cfg: DictConfig, teacher: Built | None, built: Built) -> Distillation | None:
    """Return how a network learns from its teacher.

    Raises:
        ConfigError: for a teacher of other images or classes, and for a network without classes.
    """
    if teacher is None:
        return None
    given = _settings(cfg)
    key = f"distill.teacher={given['teacher']}"
    if not (built.classifies and teacher.classifies):
        raise ConfigError(f"{key}: both networks need a loss with classes.")
    if teacher.data.num_classes != built.data.num_classes:
        classes = teacher.data.num_classes, built.data.num_classes
        raise ConfigError(f"{key} knows {classes[0]} classes, and the data has {classes[1]}.")
    shapes = [tuple(one.data.example_input().shape[1:]) for one in (teacher, built)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"{key} takes images {shapes[0]}, and those of the data are {shapes[1]}.")
    if _scales(teacher) != _scales(built):
        raise ConfigError(
            f"{key} was trained with other data.transforms: the same image has other values there."
        )
    return Distillation(teacher.model, given["temperature"], given["weight"])


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """Return all keys of ``cfg.distill``, which may be the teacher alone."""
    node = cfg.distill
    given: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else node
    settings = {"teacher": None, "temperature": 4.0, "weight": 0.5}
    if given is None or isinstance(given, str):
        return {**settings, "teacher": given}
    if not isinstance(given, Mapping):
        raise wrong("distill", given, f"the folder of a run, or a mapping of {', '.join(KEYS)}")
    for key in given:
        if key not in KEYS:
            raise ConfigError(unknown(f"distill.{key}", KEYS))
    return {**settings, **given}


def _scales(built: Built) -> Any:
    """Return what a byte of an image stands for; None where that is no line."""
    try:
        return pixel_codes(built.data)
    except ConfigError:
        return None
