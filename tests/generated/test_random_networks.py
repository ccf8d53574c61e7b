"""Random networks in all their forms; ``run.py`` looks at more of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import all_forms
import pytest
import torch
from all_forms import CCase, Difference, check
from bulk import counted, smallest
from c_programs import differences
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_programs import Program, Recipe, Statement
from random_statements import call, random_program
from shrinking import shrunk

from qatlab.errors import ConfigError

FEW, MANY = 40, 3000
C_SHARE = 0.3  # of the few networks, as compiling takes most of the time


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are tiny
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of odd networks
        yield
    torch.set_num_threads(threads)


def _programs(count: int, in_float: bool = False) -> list[Program]:
    """Return networks, the same each time.

    Hypothesis chooses seeds, not the statements themselves: of networks made of its own choices
    a quarter is written twice. What fails is shrunk by taking statements away.
    """
    found: list[Program] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def write(seed: int) -> None:
        found.append(random_program(Random(seed), in_float))

    write()
    return found


@pytest.mark.parametrize(
    ("count", "c_share"), [(FEW, C_SHARE), pytest.param(MANY, 1.0, marks=pytest.mark.slow)]
)
def test_all_forms_of_random_networks_compute_the_same(count: int, c_share: float) -> None:
    compiler = shutil.which("cc") is not None
    counts = counted(_programs(count), c_share if compiler else 0.0)
    print(counts)
    texts = [
        f"{len(found)} of {count} networks: {kind}: {found[0][1]}\n{smallest(kind, found, 1)[0]}"
        for kind, found in counts.different.items()
    ]
    assert not texts, "\n\n".join(texts)
    assert counts.networks == count
    assert counts.unfit < 0.05 * count
    assert counts.right["integers"] > 0


@pytest.mark.parametrize("count", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_files_of_floats_compute_what_random_networks_of_any_operators_do(count: int) -> None:
    counts = counted(_programs(count, in_float=True), 0.0, in_float=True)
    print(counts)
    texts = [
        f"{len(found)} of {count} networks: {kind}: {found[0][1]}\n{found[0][0]}"
        for kind, found in counts.different.items()
    ]
    assert not texts, "\n\n".join(texts)
    assert counts.right["qdq"] > 0.8 * count


def test_calls_are_spelled_in_many_ways() -> None:
    parameters = (("kernel_size", "2", ""), ("stride", "1", "None"), ("padding", "0", "0"))
    found = {call(Random(seed), "nn.MaxPool2d", *parameters) for seed in range(200)}
    assert {
        "nn.MaxPool2d(2, 1)",
        "nn.MaxPool2d(2, stride=1)",
        "nn.MaxPool2d(kernel_size=2, stride=1)",
        "nn.MaxPool2d(2, 1, padding=0)",
    } <= found


CONV = Statement(("y1",), ("x",), "self.conv({0})", ("self.conv = nn.Conv2d({c0}, 4, 3)",))
RELU = Statement(("y2",), ("y1",), "F.relu({0})")
SUM = Statement(("y3",), ("y2", "y1"), "{0} + {1}")


def test_sizes_follow_what_a_statement_reads() -> None:
    program = Program((CONV, RELU, SUM), ("y3",), Recipe(channels=3, size=(6, 7)))
    assert "self.conv = nn.Conv2d(3, 4, 3)" in program.source()
    assert program.network()(torch.rand(5, 3, 6, 7)).shape == (5, 4, 4, 5)


def test_what_nobody_reads_is_left_out() -> None:
    program = Program((CONV, RELU, SUM), ("y2",), Recipe())
    assert program.without_dead_ends().statements == (CONV, RELU)


def test_a_program_is_shrunk_to_the_statements_that_matter() -> None:
    statements = (CONV, RELU, SUM, Statement(("y4",), ("y3",), "torch.tanh({0})"))
    program = Program(statements, ("y4",), Recipe(channels=3, rules={"one": {"index": 0}}))
    fails = lambda p: "sum" if " + " in p.source() else None  # noqa: E731
    small = shrunk(program, fails)
    assert [s.text for s in small.statements] == ["{0} + {1}"]
    assert small.recipe == Recipe()


@pytest.mark.parametrize("what", ["codes", "outputs"])
def test_a_wrong_number_is_a_difference(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program((CONV, RELU), ("y2",), Recipe())
    assert "qdq" in check(program).right
    right = all_forms.compute

    def wrong(*given: object) -> object:
        found = right(*given)
        if what == "outputs":
            found.outputs[0, 0] += 1e-3
        else:
            (codes,) = found.codes.values()
            codes[1, 0, 0, 0] += 1
        return found

    monkeypatch.setattr(all_forms, "compute", wrong)
    with pytest.raises(Difference, match=f"integers: {what}"):
        check(program)


def test_c_programs_are_looked_at_one_by_one(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: cc")
    right = check(Program((CONV, RELU), ("y2",), Recipe())).c
    assert isinstance(right, CCase)
    wrong = replace(right, outputs=right.outputs + 1)
    broken = replace(right, source=right.source.replace("return best;", ""))
    found = differences([right, wrong, broken, right], tmp_path)
    assert [case for case, _ in found] == [broken, wrong]
    assert [error.kind for _, error in found] == ["c: does not compile", "c: outputs"]


def test_a_stack_trace_is_a_difference_and_a_sentence_a_refusal() -> None:
    with pytest.raises(Difference, match=r"one: TypeError in .*: line"), all_forms.stage("one"):
        len(5)  # type: ignore[arg-type]
    with pytest.raises(all_forms.Refused, match="one: conv1 has no"), all_forms.stage("one"):
        raise ConfigError("conv1 has no integer form")
    reason = all_forms.reason_of("lower: conv12 (Conv2d): padding=(3, 4) has no integer form.")
    assert reason == all_forms.reason_of(
        "lower: conv3 (Conv2d): padding=(1, 1) has no integer form."
    )
