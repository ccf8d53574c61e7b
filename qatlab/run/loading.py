"""Trained networks as objects, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from qatlab import config
from qatlab.config import places
from qatlab.deploy.integer import IntegerNetwork, lower, with_rescale
from qatlab.deploy.integer.rescaling import check_word
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.errors import ConfigError
from qatlab.results.record import find_run
from qatlab.run.belonging import own_checkpoint
from qatlab.run.build import INSTANTIATED, Built, build


def load_run(run: Path | str, checkpoint: str = "best", allow: Sequence[str] = ()) -> Built:
    """Return data, network and solver of a run, with the weights of a checkpoint.

    Args:
        run: its folder.
        checkpoint: ``best`` of its last phase, ``last``, or a file of its checkpoints.
        allow: packages of your own whose code its configuration may call, such as ``mynet``.

    Raises:
        QatlabError: if the folder holds no run, names code that is not allowed, or has no such
            checkpoint.
    """
    return build(config_of(Path(run), checkpoint, allow), trained=True)


def load_arguments(words: Sequence[str], checkpoint: str = "best") -> Trained:
    """Return what words of a command line speak of.

    Args:
        words: the folder of a run, also with ``allow=mynet``, or what ``test.py`` accepts, such as
            ``experiment=LeNet_4b``.
        checkpoint: of a run, see :func:`load_run`.

    Raises:
        QatlabError: see :func:`load_run`; and if there are no weights to load.
    """
    first, *others = words
    if "=" not in first or Path(first).is_dir():
        allow = [name for word in others for name in _allowed(word, first)]
        cfg = config_of(Path(first), checkpoint, allow)
    else:
        cfg = _composed(words)
    built = build(cfg, trained=True)
    return Trained(
        model=built.model.eval(),
        table=built.table,
        data=built.data,
        classifies=built.classifies,
        config=config.portable_yaml(cfg),
        source=" ".join(words),
    )


def _allowed(word: str, run: str) -> list[str]:
    key, _, value = word.partition("=")
    if key != "allow":
        raise ConfigError(
            f"{word} cannot be combined with the folder {run}, which holds all settings. Accepted: "
            "allow=<package>."
            + (f" A file to compare with it: --onnx {word}." if word.endswith(".onnx") else "")
        )
    return [name.strip() for name in value.strip("[]").split(",")]


def load_quantized(
    run: Path | str, checkpoint: str = "best", allow: Sequence[str] = ()
) -> nn.Module:
    """Return the network of a run, ready to be called; see :func:`load_run`."""
    return load_run(run, checkpoint, allow).model.eval()


def load_integers(
    run: Path | str, checkpoint: str = "best", allow: Sequence[str] = (), rescale: str = "fixed32"
) -> IntegerNetwork:
    """Return the network of a run in whole numbers: weights, multipliers, offsets and shifts.

    Args:
        run: its folder.
        checkpoint: see :func:`load_run`.
        allow: likewise.
        rescale: how sums become codes: ``fixed32`` and its relatives, or ``float``.

    Raises:
        QatlabError: see :func:`load_run`; and for what has no integer form, naming layer or site.
    """
    check_word(rescale)
    built = load_run(run, checkpoint, allow)
    example = built.data.example_input()
    network = lower(built.model.eval(), pixel_codes(built.data), example)
    return with_rescale(network, rescale)


def config_of(run: Path, checkpoint: str, allow: Sequence[str]) -> DictConfig:
    """Return the configuration of a run, with the weights of a checkpoint; see :func:`load_run`."""
    config.register()
    run = find_run(run)
    cfg = config.stored_config(run, allow, trained=True, called=INSTANTIATED)
    config.clear_initial_weights(cfg)
    cfg.init_weights = str(own_checkpoint(run, checkpoint))
    return cfg


def composed(words: Sequence[str], name: str) -> DictConfig:
    """Return the configuration of a command, ``config`` to train or ``test``, without running it.

    Raises:
        QatlabError: for what a command would refuse before it builds anything.
        HydraException: likewise.
    """
    config.register()
    places.register()
    with initialize_config_dir(str(places.CONF), version_base="1.3"):
        cfg = compose(name, overrides=list(words))
    cfg.folder = "."
    config.append_rules(cfg)
    config.check(cfg)
    return cfg


def _composed(words: Sequence[str]) -> DictConfig:
    cfg = composed(words, "test")
    if cfg.init_weights is None:
        raise ConfigError(f"{' '.join(words)}: there are no weights; add init_weights=<file>.")
    return cfg
