"""Compiles ``resize.cpp`` when it is first needed; without a compiler, torch does the same."""

from __future__ import annotations

import ctypes
import logging
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from qatlab.system.native import compiled

SOURCE = Path(__file__).with_name("resize.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
log = logging.getLogger(__name__)


@cache
def resize_bilinear() -> Callable[..., None] | None:
    """Return the function of ``resize.cpp``, which lets other threads run; None without one.

    Its arguments are two addresses and ten integers, see there.
    """
    try:
        function = compiled(SOURCE, FLAGS).resize_bilinear
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning(
            "images are resized by torch, which is slower, as there is no C++ kernel: %s",
            *words[:1],
        )
        return None
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 10
    function.restype = None
    return function
