"""Integer networks as C99 programs of one file, which need nothing but the standard library."""

from qatlab.deploy.c.folder import PREFIX, arduino, folder, named
from qatlab.deploy.c.program import c_program, check_c
from qatlab.deploy.c.report import LayerSize
from qatlab.deploy.c.source import LAYOUTS, CProgram

__all__ = [
    "LAYOUTS",
    "PREFIX",
    "CProgram",
    "LayerSize",
    "arduino",
    "c_program",
    "check_c",
    "folder",
    "named",
]
