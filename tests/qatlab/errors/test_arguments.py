"""Which arguments of a user's own class are accepted: by its names, and by its annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

import pytest
from typing_extensions import Unpack

from qatlab.errors import ConfigError
from qatlab.errors.arguments import check_arguments, takes


class Bare:
    def __init__(self, num_classes, width=16, *rest, act=None):  # type: ignore[no-untyped-def]
        pass


class Sizes(TypedDict):
    width: int


class Annotated:
    def __init__(
        self,
        width: int = 16,
        anything: Any = 0,
        act: Callable[..., Any] = None,  # type: ignore[assignment] # noqa: RUF013 # as many do
        of_a_name: Unknown = 3,  # type: ignore[name-defined] # noqa: F821
        sizes: Sizes | None = None,
        names: Sequence[str] = (),
        file: PathLike[str] | str = "",
        mode: Literal["a", "b"] = "a",
    ) -> None:
        pass


class Unreadable:
    def __init__(self, width: "no type at all" = 3) -> None:  # type: ignore # noqa: F722
        pass


def any_keyword(width, **kwargs):  # type: ignore[no-untyped-def]
    pass


@pytest.mark.parametrize("value", [16, 0.5, True, None, "wide", [1, 2], {"a": 1}])
@pytest.mark.parametrize("function", [Bare, Unreadable, any_keyword])
def test_an_argument_without_an_annotation_takes_anything(function: Any, value: object) -> None:
    check_arguments("model", function, {"width": value})


@pytest.mark.parametrize(
    "given",
    [
        {"width": 3},
        {"anything": 3},
        {"anything": "x"},
        {"anything": [1]},
        {"act": None},
        {"sizes": {"width": 3}},
        {"sizes": None},
        {"names": ["a"]},
        {"file": "x"},
        {"mode": "b"},
        {"of_a_name": "x"},
    ],
)
def test_an_annotation_accepts_what_it_says(given: dict[str, Any]) -> None:
    check_arguments("model", Annotated, given)


def of_numbers(width: int = 16, mode: Literal["a", "b"] = "a", anything: Any = 0) -> None:
    """Annotations that can all be evaluated."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width": "wide"}, "model.width=wide is wrong. Accepted: a whole number."),
        ({"width": None}, "model.width=null is wrong. Accepted: a whole number."),
        ({"mode": "c"}, "model.mode=c is wrong. Accepted: a, b."),
        ({"widht": 3}, "model.widht is unknown. Did you mean 'width'? Accepted in model: width"),
    ],
)
def test_an_annotation_refuses_the_rest(given: dict[str, Any], words: str) -> None:
    check_arguments("model", of_numbers, {"anything": 0.5})
    with pytest.raises(ConfigError) as caught:
        check_arguments("model", of_numbers, given)
    assert str(caught.value).startswith(words)


def test_arguments_by_position_cannot_be_given() -> None:
    with pytest.raises(ConfigError, match=r"model\.rest is unknown.* num_classes, width, act\.$"):
        check_arguments("model", Bare, {"rest": [1]})


class Settings(TypedDict, total=False):
    width: float
    depth: float | None


def handing_on(*, mode: Literal["a", "b"] = "a", **settings: Unpack[Settings]) -> None:
    """Arguments of its own, and those of what it hands on."""


def test_arguments_that_are_handed_on_are_known_by_name_and_type() -> None:
    given = {"width": 2.5, "depth": None, "mode": "b"}
    check_arguments("model", handing_on, given, complete=True)
    check_arguments("model", handing_on, {}, complete=True)  # none of them has to be given
    assert takes(handing_on, "depth") is True
    assert takes(handing_on, "settings") is False
    with pytest.raises(ConfigError, match=r"width=wide is wrong. Accepted: a number\.$"):
        check_arguments("model", handing_on, {"width": "wide"})
    with pytest.raises(ConfigError, match=r"x is unknown\. .*: width, depth, mode\.$"):
        check_arguments("model", handing_on, {"x": 1})


def test_a_function_in_c_may_take_anything() -> None:
    check_arguments("callbacks.x", dict, {"width": 3})


@pytest.mark.parametrize(
    ("function", "expected"),
    [(Bare, True), (any_keyword, None), (Annotated, False), (lambda num_classes, /: 0, False)],
)
def test_a_function_takes_what_it_names(function: Any, expected: bool | None) -> None:
    assert takes(function, "num_classes") is expected
