"""The C program of a trained network."""

from __future__ import annotations

from qatlab.deploy.c import CProgram, c_program
from qatlab.deploy.integer import with_rescale
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.results import record


def c_file(trained: Trained, rescale: str, layout: str = "chw") -> CProgram:
    """Return a network as a C99 program that says where it comes from.

    Args:
        trained: the network.
        rescale: one of :data:`~qatlab.deploy.integer.RESCALES`.
        layout: of images: one of :data:`~qatlab.deploy.c.LAYOUTS`.

    Raises:
        ConfigError: for what has no such form, naming layer or site.
    """
    about = [f"{trained.source}, rescale={rescale}"]
    about += [f"{name} {known}" for name, known in record.commits().items()]
    network = with_rescale(trained.lowered(), rescale)
    names = trained.data.class_names if trained.classifies else None
    return c_program(network, names, about, layout, pixel_codes(trained.data))
