"""The C program of a trained network."""

from __future__ import annotations

from qatlab.deploy.c import CProgram, c_program
from qatlab.deploy.integer import with_rescale
from qatlab.deploy.trained import Trained
from qatlab.results import record


def c_file(trained: Trained, rescale: str) -> CProgram:
    """Return a network as a C99 program that says where it comes from.

    Args:
        trained: the network.
        rescale: one of :data:`~qatlab.deploy.integer.RESCALES`.

    Raises:
        ConfigError: for what has no such form, naming layer or site.
    """
    about = [f"{trained.source}, rescale={rescale}", f"commit {record.commit()}"]
    network = with_rescale(trained.lowered(), rescale)
    return c_program(network, trained.data.class_names, about)
