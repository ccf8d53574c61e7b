from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from qatlab.errors import ConfigError
from qatlab.sweep.together import combined


def jobs(*words: str, keys: list[str] | None = None) -> list[str]:
    found = combined(OverridesParser.create().parse_overrides(list(words)), keys)
    return [" ".join(job) for job in found]


def test_all_lists_are_taken_together() -> None:
    assert jobs("a=1,2,3", "b=x,y,z", "c=7") == ["a=1 b=x c=7", "a=2 b=y c=7", "a=3 b=z c=7"]
    assert jobs("a=range(1,3)", "b=x,y") == ["a=1 b=x", "a=2 b=y"]
    assert jobs("c=7") == ["c=7"]


def test_others_than_the_keys_are_combined() -> None:
    assert jobs("a=1,2", "seed=3,4", "b=x,y", keys=["a", "b"]) == [
        *("a=1 b=x seed=3", "a=1 b=x seed=4"),
        *("a=2 b=y seed=3", "a=2 b=y seed=4"),
    ]


@pytest.mark.parametrize(
    ("words", "keys", "told"),
    [
        (("a=1,2", "b=1,2,3"), None, r"lists of one length: a has 2 and b has 3"),
        (("a=1,2", "b=1"), ["a", "b"], r"hydra\.sweeper\.keys=b is wrong\. .*Accepted: a\."),
        (("a=interval(0,1)",), None, r"a=interval\(0,1\): hydra/sweeper=zip takes lists only"),
    ],
)
def test_lists_that_cannot_be_taken_together(
    words: tuple[str, ...], keys: list[str] | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        jobs(*words, keys=keys)
