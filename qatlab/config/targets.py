"""Makes what a ``_target_`` node of the configuration describes; errors name its key."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf

from qatlab.errors import ConfigError, QatlabError, did_you_mean, text, wrong
from qatlab.errors.arguments import check_arguments, takes

TARGET = "_target_"
HYDRAS = (TARGET, "_partial_", "_convert_", "_recursive_", "_args_")  # keys that are not arguments
REFUSED = re.compile(  # Python's words
    r"(?:unexpected keyword argument|multiple values for (?:keyword )?argument) '(\w+)'"
)
PASSED_LATER = {  # arguments that come with the call of what these nodes describe
    "solver.optimizer": ("params",),
    "solver.lr_policy": ("epoch", "epochs"),
    "quant.activation": ("activation", "signed"),
}


def make(
    key: str,
    node: Any,
    kind: type = object,
    offered: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Make an object, or with ``_partial_`` the callable that will make it.

    Args:
        key: where the node stands in the configuration.
        node: its target and arguments.
        kind: what the object must be.
        offered: further arguments, passed only where the target accepts them.
        arguments: further arguments, which the node cannot give.

    Raises:
        ConfigError: for a target that does not exist or does not accept its arguments.
    """
    offered = dict(offered or {})
    further = [name for name in arguments if name not in HYDRAS]
    check_node(key, node, taken=[*further, *offered], complete="_partial_" not in arguments)
    target = _locate(key, node[TARGET])
    offered = {name: value for name, value in offered.items() if takes(target, name) is not False}
    try:
        made = hydra.utils.instantiate(node, **arguments, **offered)
    except InstantiationException as error:
        cause = error.__cause__ or error
        refused = REFUSED.search(str(cause))
        if refused and refused[1] in offered and takes(target, refused[1]) is None:
            del offered[refused[1]]  # it takes any argument, and hands them on to what does not
            return make(key, node, kind, offered, **arguments)
        place = re.search(r"full_key: (\S+)", str(error))
        place_key = place[1] if place else key
        failed = OmegaConf.select(node, place_key.removeprefix(key).lstrip(".")) or node
        if isinstance(cause, QatlabError) or str(failed.get(TARGET)).startswith("qatlab."):
            raise cause from None  # `from error` would chain the two in a circle
        missing = isinstance(cause, ImportError)  # of a package: no argument is to blame
        where = place_key if missing else _argument(place_key, failed, str(cause))
        raise ConfigError(f"{where}: {cause}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{key}.{TARGET}={node[TARGET]} does not make a {kind.__name__}.")
    return made


def check_node(key: str, node: Any, taken: Collection[str] = (), complete: bool = False) -> None:
    """Check target, names and types of a node and of those inside, without making anything.

    Args:
        key: where the node stands in the configuration.
        node: its target and arguments.
        taken: arguments that qatlab sets itself.
        complete: all others without a default must be given, but for what is ``_partial_``.

    Raises:
        ConfigError: see :func:`make`.
    """
    if not isinstance(node, DictConfig) or node.get(TARGET) is None:
        raise wrong(key, node, f"a mapping that has a {TARGET}")
    given = OmegaConf.to_container(node, resolve=True)
    assert isinstance(given, dict)
    arguments = {str(name): value for name, value in given.items() if name not in HYDRAS}
    target = _locate(key, node[TARGET])
    later = PASSED_LATER.get("solver.lr_policy" if key.endswith(".lr_policy") else key, ())
    complete = complete and not given.get("_partial_") and "_args_" not in given
    check_arguments(key, target, arguments, (*taken, *later), complete)
    _check_inside(key, node)


def _check_inside(key: str, node: DictConfig | ListConfig) -> None:
    """Check the nodes in a mapping or a list, and in those that stand there."""
    for name, child in node.items() if isinstance(node, DictConfig) else enumerate(node):
        path = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name!s}"
        if isinstance(child, DictConfig) and child.get(TARGET) is not None:
            check_node(path, child, complete=True)
        elif isinstance(child, (DictConfig, ListConfig)):
            _check_inside(path, child)


def _locate(key: str, target: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = resolve_name(target)
    except Exception as error:  # the module may be anyone's, and fail in any way
        module, _, name = target.rpartition(".")
        hint = did_you_mean(name, dir(sys.modules.get(module)))
        raise ConfigError(f"{key}.{TARGET}={target} cannot be found: {error}.{hint}") from error
    return found


def _argument(key: str, node: DictConfig, message: str) -> str:
    """Return the argument that a foreign message speaks of, with its value, or else the key."""
    given = {str(name): text(value) for name, value in node.items() if name not in HYDRAS}
    words = re.findall(r"\w+", message)
    named = [word for word in words if word in given]
    named += [name for name, value in given.items() if value in words and not value.isdigit()]
    return f"{key}.{named[0]}={given[named[0]]}" if named else key
