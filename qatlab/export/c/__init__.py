"""Integer networks as C99 programs of one file, which need nothing but the standard library."""

from qatlab.export.c.program import CProgram, c_program, check_c
from qatlab.export.c.report import LayerSize

__all__ = ["CProgram", "LayerSize", "c_program", "check_c"]
