"""The keys before the first section, and what cells are computed with."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from ini_compat.errors import Deviation, IniError, did_you_mean, label
from ini_compat.syntax.resolve import Section

ACCEPTED = (
    *("DefaultModel", "DefaultDataType", "InsertBatchNormAfterConv", "CheckWeightRange"),
    "ProgramMethod(*)",
)
INSERTION = "InsertBatchNormAfterConv"
MODELS = ("Frame", "Frame_CUDA", "Transcode", "Transcode_CUDA")
SPIKING = re.compile(r"C?Spike|RRAM|PCM")
DATA_TYPES = ("Float32", "Float16", "Float64")


def check_globals(section: Section, note: Callable[[Deviation], None]) -> list[IniError]:
    """Return what is wrong with the keys before the first section.

    Args:
        section: the global one.
        note: notes what is not taken over as it is.
    """
    problems = []
    for key in section:
        section.mark_used(key)
        if not any(fnmatchcase(key, pattern) for pattern in ACCEPTED):
            problems.append(
                IniError(
                    f"{key} stands before the first section and is unknown there, so N2D2 does not "
                    f"load the file.{did_you_mean(key, ACCEPTED)} Accepted: {', '.join(ACCEPTED)}",
                    section.place(key),
                )
            )
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_model(section, "DefaultModel"),
        lambda: check_data_type(section, "DefaultDataType", note),
        lambda: _check_insertion(section),
    )
    for check in checks:
        try:
            check()
        except IniError as error:
            problems.append(error)
    return problems


def check_model(section: Section, key: str) -> None:
    """Raise an IniError unless the model, if one is given, is one without spikes."""
    model = section.text(key, MODELS[0])
    if model in MODELS:
        return
    what = "is not a model of cells"
    if SPIKING.match(model):
        what = "is not supported here: spiking cells have no place among quantized networks"
    raise IniError(
        f"{label(section.name, key)}={model:.60} {what}.{did_you_mean(model, MODELS)} Accepted: "
        f"{', '.join(MODELS)}",
        section.place(key),
    )


def check_data_type(section: Section, key: str, note: Callable[[Deviation], None]) -> None:
    """Note a data type other than float32; raise an IniError for what is none."""
    if section.choice(key, DATA_TYPES, DATA_TYPES[0]) != DATA_TYPES[0]:
        reason = "networks compute in float32; trainer.precision chooses others"
        note(Deviation(section.place(key), label(section.name, key), "approximated", reason))


def _check_insertion(section: Section) -> None:
    if section.boolean(INSERTION, False):
        raise IniError(
            f"{INSERTION}=1 is not supported here: write the BatchNorm cells out",
            section.place(INSERTION),
        )
