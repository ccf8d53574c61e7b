"""What decides, beside configuration and code, whether numbers can be repeated to the last bit."""

from __future__ import annotations

import platform
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from qatlab.files import read_json, write_json
from qatlab.quant import kernels
from qatlab.record import commit

BEGUN = "environment.json"  # in a run's folder: under what it has been trained, in order
LISTED = "environments"


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


def begin(folder: Path, resumed: bool) -> list[str]:
    """Write down under what a run is trained from now on.

    Args:
        folder: of the run.
        resumed: whether it goes on; if not, what there was is forgotten.

    Returns:
        What has changed since the run began, each time that it did; other numbers may come of it.
    """
    file = folder / BEGUN
    before = read_json(file).get(LISTED, []) if resumed and file.exists() else []
    found = [one for one in before if isinstance(one, dict)] if isinstance(before, list) else []
    now = environment()
    if not found or found[-1] != now:
        found.append(now)
    write_json(file, {LISTED: found})
    return [
        f"{key} was {old[key]} and became {new[key]}"
        for old, new in pairwise(found)
        for key in new
        if key in old and old[key] != new[key]
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
