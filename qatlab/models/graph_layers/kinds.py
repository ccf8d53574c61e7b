"""Chooses the function that a mapping's ``type`` names, and checks the other keys for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from qatlab.errors import ConfigError, unknown, wrong
from qatlab.errors.arguments import check_arguments


def chosen(
    key: str, node: Any, functions: Mapping[str, Callable[..., Any]], own: str | None = None
) -> Callable[..., Any]:
    """Return the function of ``node["type"]`` with the other keys as its arguments.

    Args:
        key: where the node stands in the configuration.
        node: a mapping with ``type``.
        functions: by type; what comes before ``*`` in their signature is given later.
        own: a further key of the node, which is not an argument.

    Raises:
        ConfigError: for a type or a key that does not exist, is missing or has the wrong type.
    """
    if not isinstance(node, Mapping):
        raise wrong(key, node, "a mapping that has a type")
    if "type" not in node:
        raise ConfigError(f"{key}.type is missing. Accepted: {', '.join(functions)}.")
    kind = node["type"]
    if not isinstance(kind, str) or kind not in functions:
        raise wrong(f"{key}.type", kind, functions)
    function = functions[kind]
    parameters = inspect.signature(function).parameters.values()
    accepted = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    others = ["type"] if own is None else ["type", own]
    arguments = {str(name): value for name, value in node.items() if name not in others}
    for name in arguments:
        if name not in accepted:
            raise ConfigError(unknown(f"{key}.{name}", [*accepted, *others]))
    check_arguments(key, function, arguments)
    for p in parameters:
        if p.name in accepted and p.default is p.empty and p.name not in arguments:
            raise ConfigError(f"{key}.{p.name} is missing, which type={kind} needs.")
    return partial(function, **arguments)
