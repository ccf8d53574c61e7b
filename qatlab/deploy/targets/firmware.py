"""A program, built for a core and run in QEMU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatlab.deploy.targets.cores import COMPILER, FLAGS, QEMU, SIZE, SYMBOLS, Target
from qatlab.errors import ConfigError

COMMON = (
    *("-std=gnu99", "-mthumb", "-ffunction-sections", "-fdata-sections", "-nostartfiles"),
    *("-Wl,--gc-sections", "--specs=nosys.specs", "-I."),
)
INFER = "qatlab_infer"
SECONDS = 3600  # that images may take at most
NOTHING = """\
#define QATLAB_IMAGE_BYTES 1
#define QATLAB_CLASSES 1
typedef int64_t qatlab_number;
static void qatlab_infer(const uint8_t *image, qatlab_number *outputs)
{
    outputs[0] = image[0];
}
"""


class Firmware:
    """A program for a core, in a folder of its own that ends with it.

    Args:
        source: the C program of one file.
        whole: whether its outputs are whole numbers, not double.
        target: the core.
        flags: of gcc, beside those of the core; ``-DQATLAB_STEPS=N`` for a source with N steps, see
            :attr:`~qatlab.deploy.c.CProgram.source_with_steps`.

    Attributes:
        flash: bytes of code and constants, without what runs and links it.
        code: bytes of each of its functions, by its name; the compiler may have put one into
            another that calls it.
        ram: bytes of static memory, without image and outputs.
        instructions: of the last image; None before one was computed.
        stack: bytes that it has used.
        steps: instructions of each call, likewise.

    Raises:
        ConfigError: if it cannot be built.
    """

    def __init__(
        self, source: str, whole: bool, target: Target, flags: tuple[str, ...] = FLAGS
    ) -> None:
        self.target, self._kind = target, np.dtype(np.int64 if whole else np.float64)
        self._place = tempfile.TemporaryDirectory(prefix="qatlab-")
        self._folder = Path(self._place.name)
        self.instructions: int | None = None
        self.stack, self.steps = 0, list[int]()
        empty = self._sizes(self._built("empty.elf", NOTHING, flags))
        own = self._sizes(self._built("model.elf", source, flags))
        others = self._functions("empty.elf")
        self.code = {
            name: size - (0 if name == INFER else others.get(name, 0))
            for name, size in self._functions("model.elf").items()
        }
        self.flash, self.ram = own[0] - empty[0], own[1] - empty[1]
        memory = re.search(r"^#define QATLAB_IMAGE_BYTES (\d+)", source, re.MULTILINE)
        classes = re.search(r"^#define QATLAB_CLASSES (\d+)", source, re.MULTILINE)
        assert memory
        assert classes
        self._image, self._classes = int(memory[1]), int(classes[1])
        # The harness holds an image and outputs; what is empty holds one of each.
        self.ram -= self._image - 1 + (self._classes - 1) * self._kind.itemsize
        self.ram = max(self.ram, 0)

    def _built(self, name: str, source: str, flags: tuple[str, ...]) -> str:
        """Build a program; return its name in the folder."""
        for file, text in (
            ("model.c", source),
            ("cortex.c", _text("cortex.c")),
            ("cortex.ld", _text("cortex.ld").replace("BOARD_BYTES", self.target.memory)),
        ):
            (self._folder / file).write_text(text, encoding="utf-8")
        command = [COMPILER, *self.target.flags, *COMMON, *flags, "-Wl,-T,cortex.ld"]
        done = subprocess.run(
            [*command, "cortex.c", "-o", name], cwd=self._folder, capture_output=True, text=True
        )
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "")
            if "overflowed" in done.stderr:
                reason = f"the board has {self.target.memory} bytes of flash and of RAM only"
            raise ConfigError(f"no program for {self.target.name}: {reason or done.stderr[:200]}.")
        return name

    def _sizes(self, name: str) -> tuple[int, int]:
        """Return the bytes of flash and RAM of a program."""
        told = subprocess.run(
            [SIZE, "-A", name], cwd=self._folder, capture_output=True, text=True, check=True
        ).stdout
        found = {part: int(size) for part, size in re.findall(r"^(\.\w+)\s+(\d+)", told, re.M)}
        data = found.get(".data", 0)
        return found[".text"] + found.get(".rodata", 0) + data, data + found.get(".bss", 0)

    def _functions(self, name: str) -> dict[str, int]:
        """Return the bytes of the functions of a program.

        Copies of one are counted together, and those that the compiler has made one are one, under
        the names of all.
        """
        told = subprocess.run(
            [SYMBOLS, "-S", name], cwd=self._folder, capture_output=True, text=True, check=True
        ).stdout
        places: dict[str, tuple[int, list[str]]] = {}
        for at, size, function in re.findall(r"^(\w+) (\w+) [tT] (\w+)", told, re.MULTILINE):
            places.setdefault(at, (int(size, 16), []))[1].append(function)
        found: dict[str, int] = {}
        for bytes_of, functions in places.values():
            name = " = ".join(functions)
            found[name] = found.get(name, 0) + bytes_of
        return found

    @property
    def facts(self) -> dict[str, Any]:
        """What it takes: bytes, and instructions of the last image."""
        names = ("flash", "ram", "stack", "instructions")
        return {name: getattr(self, name) for name in names}

    def measure(self) -> None:
        """Run it on one image, so that instructions and stack are known."""
        self.outputs(np.random.default_rng(0).integers(0, 256, (1, self._image), np.uint8))

    def outputs(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the outputs of images, as the program computes them, ``(N, classes)``.

        Args:
            pixels: ``(N, ...)``, in the layout that the program reads.

        Raises:
            ConfigError: if QEMU does not run it to its end.
        """
        (self._folder / "images.raw").write_bytes(np.ascontiguousarray(pixels).tobytes())
        command = [QEMU, "-machine", self.target.machine, "-icount", "shift=0", "-nographic"]
        command += ["-monitor", "none", "-serial", "none", "-kernel", "model.elf"]
        command += ["-semihosting-config", "enable=on,target=native"]
        try:
            done = subprocess.run(
                command, cwd=self._folder, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigError(
                f"{self.target.name}: {len(pixels)} images take more than {SECONDS} seconds in "
                "QEMU: give --images a smaller number."
            ) from error
        if done.returncode:
            reason = done.stderr.strip() or f"it ends with {done.returncode}"
            raise ConfigError(f"{self.target.name}: QEMU does not run the program: {reason}.")
        ticks, stack, *steps = map(int, (self._folder / "facts.txt").read_text().split())
        # A nanosecond of the emulated time for each instruction.
        self.instructions, *self.steps = (
            round(own * 1000 / self.target.clock) for own in (ticks, *steps)
        )
        self.stack = stack
        found = np.fromfile(self._folder / "outputs.raw", self._kind)
        return found.reshape(len(pixels), self._classes)


def _text(name: str) -> str:
    return (files("qatlab.deploy.targets") / name).read_text(encoding="utf-8")
