"""C programs on the instruction sets of Cortex-M cores, in QEMU: outputs, sizes, instructions."""

from qatlab.deploy.cortex.firmware import Firmware
from qatlab.deploy.cortex.targets import FLAGS, TARGETS, Target, missing_for, target_of

__all__ = ["FLAGS", "TARGETS", "Firmware", "Target", "missing_for", "target_of"]
