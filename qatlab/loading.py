"""Runs as objects, from Python."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from qatlab import config, record
from qatlab.build import Built, build


def load_run(run: Path | str, checkpoint: str = "best") -> Built:
    """Return data, network and solver of a run, with the weights of a checkpoint.

    Args:
        run: its folder.
        checkpoint: ``best`` of its last phase, ``last``, or a file of its checkpoints.

    Raises:
        QatlabError: if the folder holds no run, or has no such checkpoint.
    """
    config.register()
    cfg = config.stored_config(Path(run))
    config.forget_weights(cfg)
    cfg.init_weights = str(record.checkpoint_of(Path(run), checkpoint))
    return build(cfg)


def load_quantized(run: Path | str, checkpoint: str = "best") -> nn.Module:
    """Return the network of a run, ready to be called; see :func:`load_run`."""
    return load_run(run, checkpoint).model.eval()
