"""The schema of the configuration, and its resolvers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class QuantConfig:
    """``quant``: the two quantizers, null for float, and the rules by name."""

    weight: Any = MISSING
    activation: Any = MISSING
    rules: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """``schedule``: epochs of each phase."""

    clamp_epochs: int = MISSING
    quantize_epochs: int = MISSING
    calibration_batches: int = MISSING


@dataclass
class TrainConfig:
    """What ``train.py`` accepts. Groups that others own are checked when they are made."""

    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    quant: QuantConfig = field(default_factory=QuantConfig)
    solver: dict[str, Any] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: dict[str, Any] = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING
    name: str = MISSING
    seed: int = MISSING
    mode: str = MISSING
    init_weights: str | None = None
    resume: str | None = None
    folder: str = MISSING


@dataclass
class TestConfig(TrainConfig):
    """What ``test.py`` accepts."""

    __test__ = False  # pytest: this is no test

    run: str | None = None
    checkpoint: str = MISSING
    save_outputs: str | None = None


def job_folder(name: str, resume: str | None) -> str:
    """Return the folder of this job: a new run, or a log folder inside the run it resumes."""
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return f"{resume}/resumed/{now}" if resume else f"outputs/runs/{name}/{now}"


def register() -> None:
    """Make the schema and the resolvers known to Hydra; to be called before it composes."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    store.store(name="test_schema", node=TestConfig)
    OmegaConf.register_new_resolver("qatlab.add", lambda a, b: a + b, replace=True)
    OmegaConf.register_new_resolver("qatlab.job_folder", job_folder, use_cache=True, replace=True)
