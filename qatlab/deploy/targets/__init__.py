"""Where C programs are built for and run: Cortex-M cores in QEMU, and this machine."""

from qatlab.deploy.targets.cores import (
    FLAGS,
    HOST,
    PACKAGES,
    TARGETS,
    Target,
    missing_for,
    target_of,
)
from qatlab.deploy.targets.firmware import Firmware
from qatlab.deploy.targets.host import HostProgram

__all__ = [
    "FLAGS",
    "HOST",
    "PACKAGES",
    "TARGETS",
    "Firmware",
    "HostProgram",
    "Target",
    "missing_for",
    "target_of",
]
