"""Mistakes in quantizers, rules, phases and what keeps memory: one line each."""

from __future__ import annotations

import pytest
from mistakes import Told, check


@pytest.mark.parametrize(
    ("override", "words"),
    [
        *[
            (f"quant.weight.bits={bits}", f"quant.weight (conv2): bits={bits}|from 1 to 16")
            for bits in (0, 33, 2.5)
        ],
        ("quant.weight.bits=null", "quant.weight (conv2)|bits=null and n_steps=null"),
        ("quant.weight.n_steps=3", "quant.weight (conv2)|bits=4 and n_steps=3|exactly one"),
        ("quant.activation.bits=abc", "quant.activation (relu1): bits=abc|from 1 to 16"),
        ("+quant.weight.bitts=3", "quant.weight.bitts is unknown|'bits'|bits, n_steps, grid"),
        ("+quant.activation.signed=true", "quant.activation.signed is set by qatlab itself"),
        ("quant.weight.grid=symetric", "quant.weight (conv1): grid=symetric|'symmetric'|full_"),
        ("quant.weight={bits: 1, grid: symmetric}", "quant.weight (conv2): grid=symmetric|1 bit"),
        ("quant.weight.scaling=maybe", "quant.weight.scaling=maybe|fan_in, true or false"),
        ("quant.weight=null", "quant.rules.first.weight|quant.weight is null|quant/weight=sat"),
        ("quant.activation.alpha=-1", "quant.activation (relu1): alpha=-1|above 0|auto"),
        ("quant.activation.alpha=abc", "quant.activation (relu1): alpha=abc|above 0|auto"),
        ("quant.activation.percentile=0", "quant.activation (relu1): percentile=0|(0, 100]"),
        ("quant.activation.percentile=abc", "quant.activation.percentile=abc|a number"),
        ("quant.rules.first.weight.bits=33", "quant.rules.first.weight (conv1): bits=33|1 to 16"),
        ("+quant.rules.first.weight.bitts=3", "quant.rules.first.weight.bitts|'bits'|grid"),
        (
            "+quant.rules.first.weight.scaling=1",
            "quant.rules.first.weight.scaling=1|fan_in, true or false",
        ),
        (
            "quant.rules.first.index=9",
            "quant.rules.first (weight)|index=9|conv1 (Conv2d 5x5 normed), conv2",
        ),
        ("+quant.rules.x={name: cov1, weight: {bits: 3}}", "quant.rules.x|'cov1'|'conv1'|fc2"),
        ("+quant.rules.x={type: Conv3d, weight: {bits: 3}}", "quant.rules.x|'Conv3d'|'Conv2d'"),
        ("+quant.rules.x={nmae: conv1, weight: {bits: 3}}", "quant.rules.x.nmae|'name'|index"),
        ("+quant.rules.x={name: conv1, wieght: {bits: 3}}", "quant.rules.x.wieght|'weight'"),
        ("+quant.rules.x={name: conv1, weight: 3}", "quant.rules.x.weight=3|mapping|null"),
        ("+quant.rules.x={name: conv1}", "quant.rules.x changes nothing|weight|activation"),
        ("quant.rules.first=", "quant.rules.first|mapping|name, type, index"),
    ],
)
def test_a_wrong_quantizer_or_rule(told: Told, override: str, words: str) -> None:
    check(told(override), tuple(words.split("|")))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            "quant=lsq_4bit schedule=clamp_then_quantize",
            "clamp_epochs=8|LSQ, which has no clamp phase",
        ),
        ("quant=pact_4bit schedule=clamp_only", "DoReFa and PACT, which have no clamp phase"),
        ("quant=lsq_4bit quant.weight.bits=1", "quant.weight (conv2)|bits=1|use 2 bits, or SAT"),
        ("quant=lsq_4bit quant.weight.start=men", "quant.weight|start=men|mean_std|'mean'"),
        ("quant=lsq_4bit quant.activation.step_size=0", "step_size=0|above 0|auto"),
        ("quant=lsq_4bit quant.activation.gradient_scale=n2", "gradient_scale|paper, n2d2, none"),
        ("quant=lsq_4bit quant.activation.ewgs=-1", "quant.activation|ewgs=-1|at least 0"),
        ("quant=lsq_plus_4bit quant.activation.start=mean", "start=mean|mean_std, min_max"),
        ("quant=dorefa_4bit quant.activation.alpha=3", "alpha"),
        ("memory=compct", "memory=compct is wrong|Did you mean 'compact'|keep, recompute, compact"),
        ("memory=compact compile=true", "memory=compact cannot be combined with compile=true"),
        ("memory=recompute quant=none", "memory=recompute has no effect on a float network"),
        ("compile=maybe", "compile=maybe is wrong|true or false"),
    ],
)
def test_methods_and_settings_that_do_not_go_together(
    command: Told, overrides: str, words: str
) -> None:
    settings = [word for word in overrides.split() if not word.startswith("mode=")]
    check(command("data=synthetic", *settings), tuple(words.split("|")))


def test_memory_that_would_have_no_effect_in_half_precision(command: Told) -> None:
    message = command("data=synthetic", "memory=recompute", "trainer.precision=bf16-mixed")
    check(message, ("memory=recompute needs a CPU", "trainer.precision=32-true", "memory=keep"))
