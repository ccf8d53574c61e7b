"""Compiles C++ files of this package when they are first needed, and loads what it has compiled.

Libraries are kept in the user's cache folder. What is loaded runs as code of the user, so that a
folder in which others could put a library is not used, and what lies there is what was compiled:
a digest stands beside each library, and one that is damaged is compiled anew.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
log = logging.getLogger(__name__)


def compiled(source: Path, flags: Sequence[str]) -> ctypes.CDLL:
    """Return the library of a source; compile it unless the cache has it.

    Raises:
        OSError: without a compiler, or where nothing can be written.
        subprocess.SubprocessError: if the compiler fails; its output is in it.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise OSError("no C++ compiler was found (c++, g++, clang++ or $CXX)")
    command = [compiler, *flags, str(source)]
    text = "\n".join([*command, source.read_text(), _processor()])
    folder = cache_folder()
    place = folder / f"{source.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    digest = place.with_suffix(".sha256")
    if not _is_whole(place, digest):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary) / place.name
            subprocess.run([*command, "-o", str(new)], check=True, capture_output=True, text=True)
            new_digest = new.with_suffix(".sha256")
            new_digest.write_text(_digest(new))
            os.replace(new, place)
            os.replace(new_digest, digest)
    return ctypes.CDLL(str(place))


def cache_folder() -> Path:
    """Return where libraries are kept: the user's cache, or a folder that ends with this process.

    The second one where there is no home folder, or others could write to the first.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home).absolute() / "qatlab"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        fault = _fault(folder)
    except (OSError, RuntimeError) as error:  # without HOME, and without a name of the user
        fault = f"there is no usable cache folder ({error})"
    if not fault:
        return folder
    return _private_folder(fault)


@cache
def _private_folder(fault: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="qatlab-"))
    atexit.register(_remove, folder, os.getpid())
    log.warning("kernels are compiled for this process only, as %s", fault)
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not in a process that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _fault(folder: Path) -> str:
    """Return why others could put a file into a folder, or the folder elsewhere; "" if not."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a folder, or a link"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    if found.st_mode & WRITABLE_BY_OTHERS:
        return f"others may write to {folder} (delete its files, then run chmod go-w)"
    if not os.access(folder, os.W_OK):
        return f"{folder} cannot be written to"
    for parent in {*folder.absolute().parents, *folder.resolve().parents}:
        found = parent.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{parent} belongs to another user"
        of_others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid not in (0, os.getegid()) else 0)
        if found.st_mode & of_others and not found.st_mode & stat.S_ISVTX:
            return f"others may write to {parent}"
    return ""


def _is_whole(place: Path, digest: Path) -> bool:
    """Tell whether a library is there as it was compiled."""
    try:
        return digest.read_text() == _digest(place)
    except (OSError, ValueError):
        return False


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _processor() -> str:
    """Return what ``-march=native`` depends on: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
