"""A program, built for this machine and run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.targets.cores import HOST
from qatlab.errors import ConfigError

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")  # as --rescale float computes in double


class HostProgram:
    """A program for this machine, in a folder of its own that ends with it.

    Args:
        source: the C program of one file.
        whole: whether its outputs are whole numbers, not double.
        flags: of the compiler.

    Attributes:
        compiler: what has built it.

    Raises:
        ConfigError: if it cannot be built.
    """

    def __init__(self, source: str, whole: bool, flags: tuple[str, ...] = FLAGS) -> None:
        self._kind = np.dtype(np.int64 if whole else np.float64)
        self.compiler = compiler()
        self._place = tempfile.TemporaryDirectory(prefix="qatlab-")
        self._folder = Path(self._place.name)
        classes = re.search(r"^#define QATLAB_CLASSES (\d+)", source, re.MULTILINE)
        assert classes
        self._classes = int(classes[1])
        (self._folder / "model.c").write_text(source, encoding="utf-8")
        harness = (files("qatlab.deploy.targets") / "host.c").read_text(encoding="utf-8")
        (self._folder / "host.c").write_text(harness, encoding="utf-8")
        command = [self.compiler, *flags, "host.c", "-o", "host"]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        if done.returncode:
            told = done.stderr.splitlines()
            reason = next((line for line in told if "error" in line), "no reason is given")
            raise ConfigError(f"{self.compiler} builds no program: {reason}.")

    @property
    def facts(self) -> dict[str, Any]:
        """How it was built."""
        return {"compiler": self.compiler}

    def outputs(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the outputs of images, as the program computes them, ``(N, classes)``.

        Args:
            pixels: ``(N, ...)``, in the layout that the program reads.

        Raises:
            ConfigError: if it does not run to its end.
        """
        (self._folder / "images.raw").write_bytes(np.ascontiguousarray(pixels).tobytes())
        done = subprocess.run([self._folder / "host"], cwd=self._folder)
        if done.returncode:
            raise ConfigError(f"the program for this machine ends with {done.returncode}.")
        found = np.fromfile(self._folder / "outputs.raw", self._kind)
        return found.reshape(len(pixels), self._classes)


def compiler() -> str:
    """Return the C compiler of this machine: the program that ``CC`` names, or one of few.

    Raises:
        ConfigError: if there is none.
    """
    names = [name for name in (os.environ.get("CC"), *COMPILERS) if name]
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        raise ConfigError(
            f"--target {HOST} takes a C compiler: {' or '.join(COMPILERS)}, or the one that the "
            "variable CC names."
        )
    return found
