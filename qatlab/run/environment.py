"""What decides, beside configuration and code, whether numbers can be repeated to the last bit."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from qatlab.errors import ConfigError
from qatlab.quant import kernels
from qatlab.results.conditions import ABSENT, FILE, LISTED, settings_of, trained_under
from qatlab.results.record import commit, project_commit
from qatlab.system.files import write_json


def environment() -> dict[str, Any]:
    """Return versions, machine and commits, and how quantizers are computed."""
    project = project_commit()
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
        **({} if project is None else {"project_commit": project}),
    }


def begin(folder: Path, config: Mapping[str, Any], resumed: bool) -> list[str]:
    """Write down under what a run is trained from now on.

    Args:
        folder: of the run.
        config: its configuration.
        resumed: whether it goes on; if not, what there was is forgotten.

    Returns:
        What has changed since the run began, each time that it did; other numbers may come of it.
    """
    found, faults = [], []
    if resumed:
        try:
            found = trained_under(folder)
        except ConfigError as error:
            faults = [f"its earlier conditions are unknown ({error})"]
    now = environment() | settings_of(config)
    if not found or found[-1] != now:
        found.append(now)
    write_json(folder / FILE, {LISTED: found})
    changes = [
        f"{key} changed from {old.get(key, ABSENT)} to {new.get(key, ABSENT)}"
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
