"""Checks arguments by the signature of what they are for, before it is called."""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from os import PathLike
from pkgutil import resolve_name
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qatlab.errors import ConfigError, text, unknown, wrong

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
FINITE = ("solver.", "trainer.", "data.", "loss.", "callbacks.", "mixup")  # not networks
MOST = 1 << 63
KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def check_arguments(
    key: str,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    taken: Collection[str] = (),
    complete: bool = False,
) -> None:
    """Raise for the first argument that ``function`` has not, or that has the wrong type.

    Types are looked at where they are annotated; null is accepted where it is the default. Python
    itself would take ``scaling=maybe`` for true, and a word for a number until something is
    computed with it.

    Args:
        key: where the arguments stand in the configuration.
        function: what will be called with them; a partial will do.
        given: plain values, lists and dictionaries; one that holds a ``_target_`` is not looked at.
        taken: arguments that qatlab sets itself, so that none can be given.
        complete: an argument without a default must be among them.

    Raises:
        ConfigError: naming the argument, what is accepted and the nearest valid name.
    """
    parameters = _parameters(function)
    named = [p.name for p in parameters.values() if p.kind in KEYWORDS]
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    accepted = [name for name in named if name not in taken]
    own = str(getattr(function, "func", function).__module__).startswith("qatlab.")
    for name, value in given.items():
        if name in taken:
            raise ConfigError(f"{key}.{name} is set by qatlab itself; leave it out.")
        if name not in accepted:
            if accepts_any:
                continue
            raise ConfigError(unknown(f"{key}.{name}", accepted))
        if value is None and parameters[name].default is None:
            continue  # as if it were left out, whatever the annotation
        options = _options(parameters[name].annotation)
        if own and int in options and key != "model":
            continue  # our own code, but for networks, says what range of whole numbers it takes
        if not any(_fits(value, option) for option in options):
            raise _wrong(f"{key}.{name}", value, options)
    for name in accepted if complete else ():
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise ConfigError(f"{key}.{name} has no value; give {key}.{name}=<value>.")


def check_numbers(key: str, value: Any) -> None:
    """Raise for a number in a configuration that nothing can be computed with.

    These are NaN, whole numbers of more than 64 bits, and infinity where it would become a
    learning rate or the like.

    Args:
        key: where the value stands; "" for the whole configuration.
        value: plain values, lists and dictionaries.

    Raises:
        ConfigError: naming the key and what is accepted.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            check_numbers(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            check_numbers(f"{key}[{place}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) or key.startswith(FINITE):
            raise wrong(key, value, "a finite number")
    elif type(value) is int and not -MOST <= value < MOST:
        raise wrong(key, value, "a whole number of at most 63 bits")


def takes(function: Callable[..., Any], name: str) -> bool | None:
    """Tell whether a function has an argument of that name; None if it may, as it takes any."""
    parameters = _parameters(function)
    if name in parameters and parameters[name].kind in KEYWORDS:
        return True
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else False


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    # Annotations may be any text, or of names for type checkers only; a function in C has none.
    for evaluated in (True, False):
        with suppress(Exception):
            return _unpacked(inspect.signature(function, eval_str=evaluated).parameters)
    return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def _unpacked(parameters: Mapping[str, inspect.Parameter]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters, with those of ``**settings: Unpack[Settings]`` by name."""
    own, settings = dict[str, inspect.Parameter](), dict[str, inspect.Parameter]()
    for name, parameter in parameters.items():
        if str(get_origin(parameter.annotation)).endswith(".Unpack"):  # of typing_extensions, too
            for key, hint in get_type_hints(*get_args(parameter.annotation)).items():
                settings[key] = inspect.Parameter(
                    key, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=hint
                )
        else:
            own[name] = parameter
    return settings | own


def _options(hint: Any) -> list[Any]:
    """Return the members of a union, and the values of a ``Literal`` one by one."""
    if hint is inspect.Parameter.empty:
        return [Any]  # no annotation
    if get_origin(hint) in (Union, types.UnionType):
        return [option for member in get_args(hint) for option in _options(member)]
    if get_origin(hint) is Literal:
        return [Literal[value] for value in get_args(hint)]
    return [hint]


def _fits(value: Any, option: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return option not in WORDS or not _makes_no(option, value["_target_"])
    if get_origin(option) is Literal:
        return (value, type(value)) in [(v, type(v)) for v in get_args(option)]
    kind = get_origin(option) or option
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in (bool, int):
        return type(value) is kind
    if getattr(kind, "_is_protocol", False):
        return isinstance(value, Mapping)  # whose _target_ is missing, which is refused elsewhere
    if kind is Any or not isinstance(kind, type):
        return True  # a type variable, a text: who knows
    try:
        if isinstance(value, str):
            return kind in (str, object) or issubclass(kind, PathLike)
        if isinstance(value, list):
            return kind is tuple or issubclass(list, kind)
        return isinstance(value, kind)
    except TypeError:  # of a class without instances, such as a TypedDict
        return True


def _makes_no(kind: type, target: Any) -> bool:
    """Tell whether a target is a class, and its objects are surely not of a kind."""
    found = None
    with suppress(Exception):  # that it cannot be found is refused elsewhere
        found = resolve_name(str(target))
    return isinstance(found, type) and not issubclass(found, kind)


def _wrong(key: str, value: Any, options: list[Any]) -> ConfigError:
    values = [get_args(option)[0] for option in options if get_origin(option) is Literal]
    words = [word for kind, word in WORDS.items() if kind in options]
    if float in options and int in options:
        words.remove(WORDS[int])  # they are numbers, too
    if any(_fits([], option) for option in options):
        words.append("a list")
    if not words and not values:
        words.append("a mapping")
    if types.NoneType in options:
        words.append("null")
    return wrong(key, value, dict.fromkeys([*map(text, values), *words]))
