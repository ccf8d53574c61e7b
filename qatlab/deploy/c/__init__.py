"""Integer networks as C99 programs of one file, which need nothing but the standard library."""

from qatlab.deploy.c.program import CProgram, c_program, check_c
from qatlab.deploy.c.report import LayerSize

__all__ = ["CProgram", "LayerSize", "c_program", "check_c"]
