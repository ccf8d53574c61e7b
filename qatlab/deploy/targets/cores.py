"""The cores that programs are built for and run on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from qatlab.errors import ConfigError, wrong

COMPILER = "arm-none-eabi-gcc"
SIZE = "arm-none-eabi-size"
SYMBOLS = "arm-none-eabi-nm"  # comes with it
QEMU = "qemu-system-arm"
HOST = "host"  # the target that is this machine
PACKAGES = "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
# Loops of products need all registers: gcc spills them when it reorders instructions, or puts all
# layers into one function.
FLAGS = (
    *("-O2", "-fno-schedule-insns", "-fno-inline-functions-called-once"),
    "-ffp-contract=off",  # as --rescale float computes in double
)


@dataclass(frozen=True)
class Target:
    """A core, and the board in which QEMU has it.

    Attributes:
        name: of the core.
        flags: of gcc.
        machine: of QEMU.
        memory: bytes of flash and of RAM there, as the linker reads it.
        clock: MHz; an instruction takes a nanosecond.
    """

    name: str
    flags: tuple[str, ...]
    machine: str
    memory: str
    clock: int


SOFT, HARD = "-mfloat-abi=soft", "-mfloat-abi=hard"
TARGETS = {
    target.name: target
    for target in (
        # A Cortex-M3 runs what is built for an M0+; the boards with one have too little memory.
        Target("cortex-m0plus", ("-mcpu=cortex-m0plus", SOFT), "mps2-an385", "4M", 25),
        Target("cortex-m3", ("-mcpu=cortex-m3", SOFT), "mps2-an385", "4M", 25),
        Target("cortex-m4", ("-mcpu=cortex-m4", HARD, "-mfpu=fpv4-sp-d16"), "mps2-an386", "4M", 25),
        Target("cortex-m7", ("-mcpu=cortex-m7", HARD, "-mfpu=fpv5-sp-d16"), "mps2-an500", "4M", 25),
        Target("cortex-m55", ("-mcpu=cortex-m55", HARD), "mps3-an547", "512K", 32),
    )
}


def target_of(name: str) -> Target:
    """Return a target.

    Raises:
        ConfigError: if there is none of that name, or a program is missing that it takes.
    """
    if name not in TARGETS:
        raise wrong("--target", name, [HOST, *TARGETS])
    if missing := missing_for():
        raise ConfigError(f"--target {name} takes {' and '.join(missing)}: {PACKAGES}.")
    return TARGETS[name]


def missing_for() -> list[str]:
    """Return the programs that are missing to build and run for a target."""
    return [name for name in (COMPILER, SIZE, QEMU) if shutil.which(name) is None]
