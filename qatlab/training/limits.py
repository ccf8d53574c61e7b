"""Checks of trainer arguments that Lightning accepts and the schedule of phases does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qatlab.errors import ConfigError, text, wrong
from qatlab.training.schedule import Schedule

INSTEAD = "set schedule.first_epochs (before quantization) and schedule.quantize_epochs instead"
ENDS_EARLY = {"max_steps": (-1,), "max_time": (None,), "fast_dev_run": (False, 0)}
ABOVE_ZERO = (
    *("accumulate_grad_batches", "gradient_clip_val"),
    *("limit_train_batches", "limit_test_batches", "check_val_every_n_epoch"),
)
UNSUPPORTED = {  # arguments of Lightning that have no effect on a run
    "log_every_n_steps": "metrics are logged once an epoch",
    "model_registry": "checkpoints are kept in the folder of the run",
    "overfit_batches": "set trainer.limit_train_batches, and data.validation=0",
    "min_epochs": INSTEAD,
}
UNUSED = "ddp_find_unused_parameters_true"
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")  # quantizers compute in float32 or 64


def check_trainer(arguments: Mapping[str, Any], schedule: Schedule) -> None:
    """Raise for an argument that would cut the schedule short or make it meaningless.

    Args:
        arguments: of the trainer.
        schedule: the phases of the run.

    Raises:
        ConfigError: naming the argument.
    """
    if arguments["max_epochs"] != schedule.epochs:
        raise ConfigError(
            f"trainer.max_epochs={arguments['max_epochs']} contradicts the schedule of "
            f"{schedule.epochs} epochs; {INSTEAD}."
        )
    for name, value in arguments.items():
        key = f"trainer.{name}"
        if value not in ENDS_EARLY.get(name, (value,)):
            raise ConfigError(
                f"{key}={text(value)} would end the run before its schedule; {INSTEAD}."
            )
        if name in UNSUPPORTED and value is not None:
            raise ConfigError(f"{key}={text(value)} has no effect: {UNSUPPORTED[name]}.")
        if name == "val_check_interval" and value not in (None, 1.0):
            raise wrong(key, value, "1.0, as a run validates at the end of an epoch")
        if name in ABOVE_ZERO and isinstance(value, (int, float)) and value <= 0:
            raise wrong(key, value, "a number above 0")
        if name == "accumulate_grad_batches" and type(value) is not int:
            raise wrong(key, value, "a whole number above 0")
        if name == "precision" and value not in PRECISIONS:
            raise wrong(key, value, PRECISIONS)


def check_processes(arguments: Mapping[str, Any], processes: int) -> None:
    """Raise unless the trainer can share the work out to several processes.

    Args:
        arguments: of the trainer.
        processes: how many it asks for, on all nodes.

    Raises:
        ConfigError: naming the argument.
    """
    strategy = arguments.get("strategy", "auto")
    if processes > 1 and strategy != UNUSED:
        # Clip values and steps have no part in the float and in the clamp phase.
        raise ConfigError(
            f"trainer.strategy={text(strategy)} cannot be combined with {processes} processes, as "
            f"some phases do not use all parameters. Accepted: {UNUSED}, as in trainer=ddp, or "
            "trainer.devices=1."
        )
