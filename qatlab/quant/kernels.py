"""Compiles ``kernels.cpp`` when it is first needed, and calls it.

A C++ compiler takes a second for it, once on a machine: the library is kept in the user's cache
folder. Without a compiler there is one warning, and :mod:`qatlab.quant.dispatch` uses the
definitions. ``torch.utils.cpp_extension`` would do the same in half a minute, as it includes all of
torch.
"""

from __future__ import annotations

import ctypes
import logging
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from qatlab.quant.grid import Grid
from qatlab.system.native import compiled

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    "-ffp-contract=off",  # forward results equal to torch's to the last bit
    *("-fno-math-errno", "-fno-trapping-math"),  # or rounding is not vectorized
)
log = logging.getLogger(__name__)


class Settings(ctypes.Structure):
    """What the kernels are told beside tensors; the layout is that of ``struct Settings``."""

    _fields_ = [  # ctypes asks for a list
        *((name, ctypes.c_float) for name in ("q_min", "q_max", "divisor")),
        *((name, ctypes.c_float) for name in ("gradient_scale", "ewgs")),
        *((name, ctypes.c_int32) for name in ("closed", "residual")),
    ]


@cache
def settings(grid: Grid, gradient_scale: float, ewgs: float) -> Settings:
    """Return the settings of :func:`~qatlab.quant.grid.fake_quantize`."""
    ends = (grid.q_min, grid.q_max, grid.divisor)
    return Settings(*ends, gradient_scale, ewgs, grid.closed, grid.residual)


def available() -> bool:
    """Tell whether the kernels can be called; compiles them if need be."""
    return _library() is not None


def call(name: str, *arguments: Settings | Tensor | int | float | None) -> None:
    """Call a kernel; its last parameter, the number of threads, is torch's.

    Args:
        name: a function of ``kernels.cpp``.
        arguments: settings, dense tensors (their memory is passed), numbers; None is a null
            pointer.
    """
    library = _library()
    assert library is not None
    passed = [
        ctypes.c_void_p(argument.data_ptr())
        if isinstance(argument, Tensor)
        else ctypes.byref(argument)
        if isinstance(argument, Settings)
        else ctypes.c_float(argument)
        if isinstance(argument, float)
        else ctypes.c_int64(argument)
        if argument is not None
        else None
        for argument in arguments
    ]
    getattr(library, name)(*passed, torch.get_num_threads())


@cache
def _library() -> ctypes.CDLL | None:
    try:
        return compiled(SOURCE, FLAGS)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None)
        words = (output or str(error)).strip().splitlines() or [type(error).__name__]
        log.warning(
            "quantizers run as torch operations, which is slower, as there are no C++ kernels: %s",
            words[0],
        )
        return None
