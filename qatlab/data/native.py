"""Compiles ``resize.cpp`` when it is first needed; without a compiler, torch does the same."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("resize.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
log = logging.getLogger(__name__)


@cache
def resize_bilinear() -> Callable[..., None] | None:
    """Return the function of ``resize.cpp``, which lets other threads run; None without one.

    Its arguments are two addresses and ten integers, see there.
    """
    try:
        function = ctypes.CDLL(str(_compiled())).resize_bilinear
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning("images are resized operation by operation, and slower: %s", *words[:1])
        return None
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 10
    function.restype = None
    return function


def _compiled() -> Path:
    """Return the library; the user's cache folder keeps one for each source and processor."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((name for name in names if name and shutil.which(name)), None)
    if compiler is None:
        raise OSError("no C++ compiler was found (c++, g++, clang++ or $CXX)")
    command = [compiler, *FLAGS, str(SOURCE)]
    described = "\n".join([*command, SOURCE.read_text(), _processor()])
    name = f"resize-{hashlib.sha256(described.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qatlab"
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary) / name
            subprocess.run([*command, "-o", str(new)], check=True, capture_output=True, text=True)
            new.replace(folder / name)
    return folder / name


def _processor() -> str:
    """Return what ``-march=native`` depends on: several machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
