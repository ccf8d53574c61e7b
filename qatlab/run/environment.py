"""What decides, beside configuration and code, whether numbers can be repeated to the last bit."""

from __future__ import annotations

import platform
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from qatlab.errors import ConfigError
from qatlab.files import read_json, write_json
from qatlab.quant import kernels
from qatlab.results.record import commit

BEGUN = "environment.json"  # in a run's folder: under what it has been trained, in order
LISTED = "environments"
# A resume starts from a checkpoint, whatever the weights of the beginning were.
NOT_COMPARED = ("folder", "resume", "allow", "init_weights", "model.weights")


def environment() -> dict[str, Any]:
    """Return versions, machine and commit, and how quantizers are computed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch_lightning"),
        "machine": platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "kernels": "compiled" if kernels.available() else "definitions",
        "commit": commit(),
    }


def begin(folder: Path, settings: dict[str, str], resumed: bool) -> list[str]:
    """Write down under what a run is trained from now on.

    Args:
        folder: of the run.
        settings: its configuration, with dotted keys.
        resumed: whether it goes on; if not, what there was is forgotten.

    Returns:
        What has changed since the run began, each time that it did; other numbers may come of it.
    """
    file, before, faults = folder / BEGUN, [], []
    if resumed and file.exists():
        try:
            before = read_json(file)[LISTED]
        except (ConfigError, KeyError) as error:
            faults = [f"what it has been trained under is not known ({error})"]
    found = [one for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    if resumed and not found and not faults:
        faults = [f"what it has been trained under is not known ({file} does not tell)"]
    now = environment() | {k: v for k, v in settings.items() if k not in NOT_COMPARED}
    if not found or found[-1] != now:
        found.append(now)
    write_json(file, {LISTED: found})
    changes = [
        f"{key} was {old.get(key)} and became {new.get(key)}"
        for old, new in pairwise(found)
        for key in (*new, *(key for key in old if key not in new))
        if old.get(key) != new.get(key)
    ]
    return faults + changes


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
