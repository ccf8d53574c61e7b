"""What a run would train: its network, and in which forms that can leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig

from qatlab.deploy.integer.lowering import Obstacle
from qatlab.deploy.obstacles import (
    IN_INTEGERS,
    OF_FLOATS,
    check_target,
    forms_of,
    in_short,
    listed,
    obstacles,
)
from qatlab.deploy.pixels import pixel_codes
from qatlab.errors import ConfigError
from qatlab.quant import quantizers
from qatlab.run.build import Built, build
from qatlab.run.layers import print_table
from qatlab.system.terminal import say


def plan(cfg: DictConfig) -> None:
    """Print the table of layers and sites, and all that stands in the way of an export.

    Raises:
        QatlabError: for a network that cannot be made, or cannot leave as ``cfg.target`` asks.
    """
    built, found = _built(cfg, OF_FLOATS)
    print_table(built.table)
    for line in [in_short(found), *listed(found)]:
        say(line)
    _check(cfg, built, found)  # behind the lines that say all that is in the way


def build_for_target(
    cfg: DictConfig, tried: Sequence[str] = ()
) -> tuple[Built, dict[str, tuple[Obstacle, ...]]]:
    """Make what is configured; return what stands in the way of each form of the network, too.

    Args:
        cfg: the configuration.
        tried: of a network of which parts stay float, forms that are written beside those that
            ``cfg.target`` asks for.

    Raises:
        ConfigError: if ``cfg.target`` asks for a form that the network cannot have.
    """
    built, found = _built(cfg, tried)
    _check(cfg, built, found)
    return built, found


def _check(cfg: DictConfig, built: Built, found: Mapping[str, tuple[Obstacle, ...]]) -> None:
    if quantizers(built.model):  # a float network is trained on the way to one that leaves
        check_target(cfg.target, found)


def _built(cfg: DictConfig, tried: Sequence[str]) -> tuple[Built, dict[str, tuple[Obstacle, ...]]]:
    asked = forms_of(cfg.target)  # a word that is wrong is refused before anything is built
    built = build(cfg)
    return built, _obstacles(cfg, built, [*asked, *tried])


def _obstacles(
    cfg: DictConfig, built: Built, tried: Sequence[str]
) -> dict[str, tuple[Obstacle, ...]]:
    """Return what stands in the way of each form of the network."""
    data = built.data
    try:
        codes, of_images = pixel_codes(data), None
    except ConfigError as error:  # files of floats take any images
        codes, of_images = None, Obstacle("data.transforms", "", str(error))
    found = obstacles(built.model, codes, data.example_input(), tried)
    if of_images is not None:
        found |= {form: (of_images, *found[form]) for form in IN_INTEGERS & found.keys()}
    return found
