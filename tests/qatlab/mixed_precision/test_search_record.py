"""The record of a search that trains is read as it was written, and no other one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from qatlab.errors import ConfigError
from qatlab.mixed_precision import Found, Record, Sensitivity, Tensor, Trained

WEIGHT, SITE = Tensor("weight", "conv1"), Tensor("activation", "relu1")


def record(path: Path) -> Record:
    own = Record.begin(path, "runs/lenet", ["minimize=size", "rounds=2"])
    own.accuracy = 0.875
    losses = {(WEIGHT, 2): 0.5, (WEIGHT, 8): 0.0, (SITE, 8): 0.0}
    own.sensitivity = Sensitivity(0.25, losses, 64)
    own.points = [1000.0, 1234.5]
    trained = Trained("r.search/round_1", "done", 0.75, [0.5, 0.75])
    widths = {WEIGHT: 2, SITE: 8}
    own.found = [Found(widths, 0.75, {"size": 1200.0}, {"size": 1234.5}, (0.8, 0.7), trained)]
    own.uniform = [Found({WEIGHT: 8, SITE: 8}, 0.25, {"size": 4000.0})]
    own.chosen = 0
    return own


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    own = record(tmp_path / "r.search.json")
    own.save()
    again = Record.begin(own.path, "runs/lenet", ["rounds=2", "minimize=size"])
    assert again.found[0].assignment == own.found[0].assignment
    assert again.found[0].measured == (0.8, 0.7)
    assert again.found[0].trained == own.found[0].trained
    assert again.sensitivity == own.sensitivity
    before = own.path.read_bytes()
    again.save()
    assert own.path.read_bytes() == before


@pytest.mark.parametrize(
    ("run", "words", "told"),
    [
        ("runs/other", ["minimize=size", "rounds=2"], "with runs/lenet where this one has"),
        ("runs/lenet", ["minimize=size"], "with rounds=2 where this one has nothing"),
    ],
)
def test_the_record_of_another_search_is_refused(
    tmp_path: Path, run: str, words: list[str], told: str
) -> None:
    own = record(tmp_path / "r.search.json")
    own.save()
    with pytest.raises(ConfigError, match=told):
        Record.begin(own.path, run, words)


@pytest.mark.parametrize("text", ['{"words": []}', '{"words": 3, "losses": [1]}', "{"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.search.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"r\.search\.json"):
        Record.begin(path, "runs/lenet", [])


def test_the_record_of_a_search_that_trains_nothing_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.search.json"
    path.write_text('{"run": "runs/lenet", "found": []}')
    assert Record.begin(path, "runs/lenet", ["rounds=2"]).found == []
