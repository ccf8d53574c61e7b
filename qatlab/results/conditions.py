"""``environment.json``: under which settings and conditions a run has been trained, in order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qatlab.errors import ConfigError
from qatlab.results.compare import flat
from qatlab.results.record import CONFIG
from qatlab.system.files import read_json, read_yaml_mapping

FILE = "environment.json"  # in a run's folder
LISTED = "environments"
ABSENT = "absent"
# A resume starts from a checkpoint, whatever the weights of the beginning were.
NOT_COMPARED = ("folder", "resume", "allow", "init_weights", "model.weights")
MOVABLE = ("data.source.folder", "trainer.accelerator", "trainer.devices")  # changed by a resume


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a configuration decides numbers, by dotted keys; floats to the last bit."""
    return {key: text for key, text in flat(config, exact=True) if key not in NOT_COMPARED}


def trained_under(folder: Path) -> list[dict[str, Any]]:
    """Return settings and conditions of each time that a run was begun or resumed.

    Raises:
        ConfigError: if the file is missing or damaged.
    """
    listed = read_json(folder / FILE).get(LISTED)
    if not isinstance(listed, list) or not all(isinstance(one, dict) and one for one in listed):
        raise ConfigError(f"{folder / FILE} does not hold the conditions of a run")
    return listed


def check_unchanged(folder: Path) -> None:
    """Raise if a run's configuration is not what the run was trained with.

    With other bits or another grid its weights would answer differently, without a word. Runs that
    were made before this was written down are taken as they are.

    Raises:
        ConfigError: naming the first such key, and both values; and for damaged files.
    """
    if not os.path.lexists(folder / FILE):
        return
    known = trained_under(folder)
    now = settings_of(read_yaml_mapping(folder / CONFIG))
    for key in dict.fromkeys([*now, *(key for one in known for key in one if "." in key)]):
        if key in (*NOT_COMPARED, *MOVABLE):
            continue
        value, was = now.get(key, ABSENT), {str(one.get(key, ABSENT)) for one in known}
        if value not in was:
            raise ConfigError(
                f"{folder / CONFIG} was changed after the training: {key} is {value}, and "
                f"the run was trained with {' or '.join(sorted(was))}; restore it, or "
                f"delete {folder / FILE} to use it as it is."
            )
