"""Trained networks as objects, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from qatlab import config, record
from qatlab.build import Built, build
from qatlab.errors import ConfigError


def load_run(run: Path | str, checkpoint: str = "best") -> Built:
    """Return data, network and solver of a run, with the weights of a checkpoint.

    Args:
        run: its folder.
        checkpoint: ``best`` of its last phase, ``last``, or a file of its checkpoints.

    Raises:
        QatlabError: if the folder holds no run, or has no such checkpoint.
    """
    return build(_config_of(Path(run), checkpoint), trained=True)


@dataclass(frozen=True)
class Loaded:
    """A trained network, and where it comes from.

    Attributes:
        built: data, network and solver.
        config: its configuration, YAML.
        source: the folder of its run, or the words that describe it.
    """

    built: Built
    config: str
    source: str


def load_words(words: Sequence[str], checkpoint: str = "best") -> Loaded:
    """Return what words of a command line speak of.

    Args:
        words: the folder of a run, or what ``test.py`` accepts, such as ``experiment=LeNet_4b``.
        checkpoint: of a run, see :func:`load_run`.

    Raises:
        QatlabError: see :func:`load_run`; and if there are no weights to load.
    """
    if len(words) == 1 and ("=" not in words[0] or Path(words[0]).is_dir()):
        cfg = _config_of(Path(words[0]), checkpoint)
    else:
        cfg = _composed(words)
    return Loaded(build(cfg, trained=True), config.portable_yaml(cfg), " ".join(words))


def load_quantized(run: Path | str, checkpoint: str = "best") -> nn.Module:
    """Return the network of a run, ready to be called; see :func:`load_run`."""
    return load_run(run, checkpoint).model.eval()


def _config_of(run: Path, checkpoint: str) -> DictConfig:
    config.register()
    cfg = config.stored_config(run)
    config.forget_weights(cfg)
    cfg.init_weights = str(record.checkpoint_of(run, checkpoint))
    return cfg


def _composed(words: Sequence[str]) -> DictConfig:
    folder = Path("conf").resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"{' '.join(words)}: there is no conf/ here; go to the folder of train.py."
        )
    config.register()
    with initialize_config_dir(str(folder), version_base="1.3"):
        cfg = compose("test", overrides=list(words))
    cfg.folder = "."
    config.check(cfg)
    if cfg.init_weights is None:
        raise ConfigError(f"{' '.join(words)}: there are no weights; add init_weights=<file>.")
    return cfg
