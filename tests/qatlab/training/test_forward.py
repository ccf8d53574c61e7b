"""Compiled steps, and settings that exclude each other."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.errors import ConfigError
from qatlab.models import LeNet
from qatlab.quant import (
    Phase,
    Quantizer,
    SatActivation,
    SatWeight,
    quantize,
    set_phase,
    start_quantizers,
)
from qatlab.training import forward
from qatlab.training.forward import TrainingForward


def test_words_that_are_no_mode_are_reported() -> None:
    with pytest.raises(ConfigError, match=r"memory=compct is wrong. Did you mean 'compact'\?"):
        TrainingForward(False, "compct")
    with pytest.raises(ConfigError, match="memory=compact cannot be combined with compile=true"):
        TrainingForward(True, "compact")


def test_memory_is_refused_where_it_would_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    step, cpu = TrainingForward(False, "recompute"), torch.device("cpu")
    with pytest.raises(ConfigError, match="memory=recompute has no effect on a float network"):
        step.check_model(nn.ReLU())
    with pytest.raises(ConfigError, match="memory=recompute needs a CPU"):
        step.check(cpu, "bf16-mixed")
    with pytest.raises(ConfigError, match="memory=recompute needs a CPU"):
        step.check(torch.device("cuda"), "32-true")
    monkeypatch.setattr(forward, "kernels_available", lambda: False)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        step.check(cpu, "32-true")
    TrainingForward(False, "keep").check(cpu, "bf16-mixed")


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))


def lenet() -> nn.Module:
    torch.manual_seed(0)
    model, _ = quantize(
        LeNet(10, 1, dropout=0.0),
        partial(SatWeight, bits=4),
        partial(SatActivation, bits=4),
        (),
        images(1),
    )
    start_quantizers(model, [images(8)])
    return model.train()


def test_a_compiled_step_is_the_step_in_each_phase_and_for_the_last_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The backend that traces, differentiates and then runs the graph as it is: the generated code
    # itself is the compiler's business.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled, eager = lenet(), lenet()
    step = TrainingForward(True, "keep")
    calls: list[int] = []
    for phase in (Phase.CLAMP, Phase.QUANTIZE):
        for count in (8, 8, 5):
            losses = []
            for model, compute in ((compiled, step), (eager, lambda model, x: model(x))):
                set_phase(model, phase)
                model.zero_grad()
                outputs = compute(model, images(count))
                loss = F.cross_entropy(outputs, torch.arange(count))
                loss.backward()
                losses.append(loss.detach())
            calls.append(count)
            torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
            for (name, a), (_, b) in zip(
                compiled.named_parameters(), eager.named_parameters(), strict=True
            ):
                if b.grad is not None:
                    largest = b.grad.abs().max().item()
                    torch.testing.assert_close(
                        a.grad, b.grad, rtol=1e-3, atol=1e-3 * largest, msg=name
                    )
    assert calls == [8, 8, 5] * 2
    # It has been compiled for the two phases, not for the last batch.
    assert len(torch._dynamo.eval_frame._debug_get_cache_entry_list(_code_of(step))) == 2
    assert not any("_orig_mod" in key for key in compiled.state_dict())


def _code_of(step: TrainingForward) -> Any:
    return step._function._torchdynamo_orig_callable.__code__  # type: ignore[union-attr]


def test_what_the_compiler_says_is_reported_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no such processor")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(
        ConfigError, match=r"^compile=true: the network cannot be compiled here: .*"
    ):
        TrainingForward(True, "keep")(lenet(), images(2))


def test_quantizers_of_a_compiled_network_need_no_host_synchronization() -> None:
    """Nothing in a step reads a tensor's value: on a GPU it would wait."""
    model = lenet()
    for quantizer in model.modules():
        if isinstance(quantizer, Quantizer):
            quantizer.phase = Phase.QUANTIZE
    graph = torch.export.export(model.eval(), (images(2),)).graph
    reads = [n for n in graph.nodes if "item" in str(n.target) or "local_scalar" in str(n.target)]
    assert reads == []
