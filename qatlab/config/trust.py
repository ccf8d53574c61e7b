"""What the configuration of a run's folder may make: a folder is data, and data run no code.

``config.yaml`` names by ``_target_`` what is called, and with which arguments. In a folder that
someone else has made this could be any function of any package, so that a configuration which was
stored is taken only if it names classes of the packages below, networks of torchvision and timm,
what the user has allowed by name, and what ``./conf`` of the user's project names, too. The command
line and the YAML of ``conf/`` are the user's own; they may call anything.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from qatlab.config.targets import TARGET
from qatlab.errors import ConfigError, did_you_mean, wrong

ARGUMENTS = "_args_"  # Hydra's list of arguments by position, which no signature is checked for
CLASSES = (
    *("qatlab.data", "qatlab.models", "qatlab.quant", "qatlab.training"),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.transforms"),
    *("pytorch_lightning.accelerators", "pytorch_lightning.callbacks", "pytorch_lightning.loggers"),
    *("pytorch_lightning.plugins", "pytorch_lightning.strategies"),
    *("pytorch_lightning.trainer", "lightning_fabric.accelerators", "lightning_fabric.plugins"),
    *("torchmetrics.aggregation", "torchmetrics.classification", "torchmetrics.regression"),
)
FUNCTIONS = (  # modules; of torchvision the functions that make networks for classes
    *("qatlab.models.timm_models", "qatlab.models.torchvision_models"),
    "qatlab.training.lr_policy",
)
ROOTS = sorted({package.partition(".")[0] for package in CLASSES} - {"lightning_fabric"})
# A reference of OmegaConf, but for an escaped one and the one that stands for the run's folder: a
# few lines of others make a text that fills the memory, or ask the environment.
REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*(\$\{(?!folder\}).*)", re.DOTALL)
OF_HYDRA = {"_partial_": bool, "_recursive_": bool, "_convert_": str}
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_stored(
    file: Path,
    content: Mapping[str, Any],
    allowed: Sequence[str] = (),
    called: Collection[str] | None = None,
    own: Collection[str] = (),
) -> None:
    """Raise for a stored configuration that could run code, before anything of it is imported.

    Args:
        file: where it stands, for the message.
        content: its plain values.
        allowed: further packages or modules, whose classes and functions may be called.
        called: the groups that the command makes objects of, such as ``model``; by default all.
        own: further targets, each by its whole name; see :func:`qatlab.config.places.own_targets`.

    Raises:
        ConfigError: naming the key, what it would call, and how to allow it.
    """
    for name in allowed:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            accepted = "names of packages, such as allow=mynet or allow=[mynet,mylosses]"
            raise wrong("allow", name, accepted)
    for key, value in _values(content):
        name = key.rpartition(".")[2]
        if name == ARGUMENTS:
            raise ConfigError(
                f"{file}: {key} is not accepted in the configuration of a run, which gives each "
                "argument by its name."
            )
        if isinstance(value, str) and (found := REFERENCE.search(value)):
            raise ConfigError(
                f"{file}: {key} holds the reference {found[1]:.60}. Accepted in the configuration "
                "of a run: values, and the reference ${folder}."
            )
        if name in OF_HYDRA and not isinstance(value, OF_HYDRA[name]):
            accepted = "true or false" if OF_HYDRA[name] is bool else "a text"
            raise wrong(f"{file}: {key}", value, accepted)
        if name == TARGET and value is not None and (called is None or _group(key) in called):
            _check_target(f"{file}: {key}", value, allowed, own)


def _group(key: str) -> str:
    return re.split(r"[.\[]", key, maxsplit=1)[0]


def foreign(content: Any, own: Collection[str] = ()) -> list[str]:
    """Return the packages of a configuration's targets that :func:`check_stored` would refuse."""
    found = set()
    for key, value in _values(content):
        if key.rpartition(".")[2] == TARGET and isinstance(value, str):
            try:
                _check_target(key, value, (), own)
            except ConfigError:
                found.add(value.partition(".")[0])
    return sorted(found)


def _values(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values, and mappings and lists too, with their keys joined by dots."""
    if key:
        yield key, content
    if isinstance(content, Mapping):
        for name, inner in content.items():
            yield from _values(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(content, (list, tuple)):
        for number, inner in enumerate(content):
            yield from _values(inner, f"{key}[{number}]")


def _check_target(
    where: str, target: Any, allowed: Sequence[str], own: Collection[str] = ()
) -> None:
    if not isinstance(target, str) or not NAME.fullmatch(target):
        raise wrong(where, target, "the name of a class")
    package = target.partition(".")[0]
    refused = ConfigError(
        f"{where}={target} is refused: a run's folder may call classes of {', '.join(ROOTS)} for "
        f"layers, data, training and networks; if you trust the code of {package}, add "
        f"allow={package}."
    )
    if _lies_in(target, allowed) or target in own:
        packages = [name.partition(".")[0] for name in own]
        return _check_allowed(where, target, [*allowed, *packages])
    if not any(package == root for root in ROOTS):
        raise refused
    try:
        found = resolve_name(target)
    except Exception as error:  # some modules answer to any name
        module, _, name = target.rpartition(".")
        hint = did_you_mean(name, _names_in(module))
        raise ConfigError(f"{where}={target} cannot be found: {error}.{hint}") from error
    module, name = (str(getattr(found, key, "")) for key in ("__module__", "__qualname__"))
    beside_networks = module.startswith("torchvision.models.")
    if inspect.isclass(found) and _lies_in(module, CLASSES):
        if beside_networks and not issubclass(found, _module_class()):
            raise refused
        return None
    is_plain = inspect.isfunction(found) and name.isidentifier()  # methods have a dot in it
    makes_network = beside_networks and _is_network(name)
    if is_plain and not name.startswith("_") and (module in FUNCTIONS or makes_network):
        return None
    raise refused


def _module_class() -> type:
    return resolve_name("torch.nn.Module")  # type: ignore[no-any-return]


def _is_network(name: str) -> bool:
    """Tell whether torchvision has a network for classes of that name."""
    models = resolve_name("torchvision.models")
    return name in models.list_models(module=models)


def _check_allowed(where: str, target: str, allowed: Sequence[str]) -> None:
    """Raise unless what is found under an allowed name is of allowed code, too."""
    try:
        found = resolve_name(target)
    except Exception:
        return  # the module may be anyone's, and fail in any way: reported when it is called
    module = str(getattr(found, "__module__", None) or getattr(type(found), "__module__", ""))
    if not _lies_in(module, (*allowed, *CLASSES)):
        raise ConfigError(
            f"{where}={target} is refused: it is code of {module}; if you trust that, add "
            f"allow={module.partition('.')[0]}, too."
        )


def _lies_in(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _names_in(module: str) -> list[str]:
    try:
        return dir(resolve_name(module))
    except Exception:  # likewise
        return []
