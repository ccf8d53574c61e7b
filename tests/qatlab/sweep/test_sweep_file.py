from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from qatlab.errors import ConfigError
from qatlab.sweep.file import expanded, words_of

TEXT = """
hydra/sweeper: zip
hydra.sweeper.keys: [a.b, c]
quant: [sat_4bit, lsq_4bit]
schedule.first_epochs: 4
solver.optimizer.lr: interval(0.01,0.2)
data.image_size: [[32, 32], [48, 48]]
+quant.rules.mid: [{name: "conv*", weight: {bits: 2}}]
init_weights: [null, "a run/last.ckpt"]
compile: true
~callbacks.quant_monitor:
"""


def test_settings_and_lists_become_words(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TEXT)
    words = words_of(tmp_path / "s.yaml")
    assert words == [
        "hydra/sweeper=zip",
        "hydra.sweeper.keys=[a.b,c]",
        "quant=sat_4bit,lsq_4bit",
        "schedule.first_epochs=4",
        "solver.optimizer.lr=interval(0.01,0.2)",
        "data.image_size=[32,32],[48,48]",
        "+quant.rules.mid={name:conv*,weight:{bits:2}}",
        'init_weights=null,"a run/last.ckpt"',
        "compile=true",
        "~callbacks.quant_monitor",
    ]
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(words)}
    sizes = list(parsed["data.image_size"].sweep_iterator())
    assert sizes == [[32, 32], [48, 48]]
    assert parsed["quant.rules.mid"].value() == {"name": "conv*", "weight": {"bits": 2}}
    files = list(parsed["init_weights"].sweep_string_iterator())
    assert files == ["null", '"a run/last.ckpt"']


def test_what_is_given_beside_the_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("quant: [sat_4bit, lsq_4bit]\nseed: [1, 2]\n")
    words = ["-m", f"sweep={file}", "seed=3", "model=lenet"]
    assert expanded(words) == ["quant=sat_4bit,lsq_4bit", "-m", "seed=3", "model=lenet"]
    assert expanded(["-m", "sweep.cache=null"]) == ["-m", "sweep.cache=null"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "quant: {weight: 3}",
            r"s\.yaml: quant holds a mapping\. Accepted: .* quant\.weight: \[2, 4\]",
        ),
        ("seed: []", r"s\.yaml: seed has no values"),
        ("- seed", r"cannot read .*s\.yaml: it holds no mapping"),
        ("seed: !!python/object:os.system x", r"cannot read .*s\.yaml"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        expanded(["-m", f"sweep={tmp_path / 's.yaml'}"])


def test_one_file_only_and_one_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep=b\.yaml cannot be combined with sweep=a\.yaml"):
        expanded(["sweep=a.yaml", "sweep=b.yaml"])
    with pytest.raises(ConfigError, match=r"cannot read none\.yaml: No such file"):
        expanded(["sweep=none.yaml"])


@pytest.mark.parametrize("word", ["sweep=bits", "sweep=", "+sweep=bits.json"])
def test_another_kind_of_file_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"^sweep=.* is wrong\. Accepted: a file that ends in"):
        expanded(["quant=sat_4bit", word])
    assert expanded(["sweep={fail_fast: true}"]) == ["sweep={fail_fast: true}"]
