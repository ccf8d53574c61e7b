"""Compiles C++ files of this package when they are first needed."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def compile_once(source: Path, flags: Sequence[str]) -> Path:
    """Return the library of a source; compile it unless the user's cache folder has it.

    Raises:
        OSError: without a compiler.
        subprocess.SubprocessError: if it fails.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise OSError("no C++ compiler was found (c++, g++, clang++ or $CXX)")
    command = [compiler, *flags, str(source)]
    text = "\n".join([*command, source.read_text(), _processor()])
    name = f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qatlab"
    if (folder / name).exists():
        return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        new = Path(temporary) / name
        subprocess.run([*command, "-o", str(new)], check=True, capture_output=True, text=True)
        os.replace(new, folder / name)
    return folder / name


def _processor() -> str:
    """Return what ``-march=native`` depends on: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
