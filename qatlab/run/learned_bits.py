"""Prepares the learning of bits in a run, and writes down what bits have been learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig
from pytorch_lightning import Callback

from qatlab.errors import ConfigError
from qatlab.quant import ModelTable, Phase
from qatlab.quant.rules import rules_of_bits
from qatlab.quant.table import LEARNED
from qatlab.run.build import Built
from qatlab.run.quantized import rules_of
from qatlab.system import files
from qatlab.training.learned_bits import LearnedBits
from qatlab.training.oscillation import Oscillation
from qatlab.training.transition_rate import TransitionRate
from qatlab.training.weight_average import WeightAverage

RULES = "rules.yaml"  # in a run's folder
BITS = ("bits", "n_steps")
# Those that compare levels or steps from one step to the next.
ALONE = {Oscillation: "oscillation", TransitionRate: "transition_rate", WeightAverage: "ema"}


def prepare(cfg: DictConfig, built: Built, chosen: Sequence[Callback]) -> LearnedBits | None:
    """Tell the callback that learns bits, if one is chosen, what network it is for.

    Raises:
        ConfigError: for a budget that cannot be met, and for what else is chosen that does not go
            with it.
    """
    callback = next((one for one in chosen if isinstance(one, LearnedBits)), None)
    if callback is None:
        return None
    reasons = {
        "compile=true": cfg.compile,
        "quant.one_step_for_sums=true": cfg.quant.one_step_for_sums,
        "schedule.falling_bits": cfg.schedule.falling_bits,
        "quant=none": cfg.quant.weight is None and cfg.quant.activation is None,
    }
    reasons |= {
        f"callbacks={name}": any(isinstance(one, kind) for one in chosen)
        for kind, name in ALONE.items()
    }
    for other, is_given in reasons.items():
        if is_given:
            raise ConfigError(
                f"callbacks=learned_bits cannot be combined with {other}; learn the bits without "
                f"it, and train anew with the rules of that run's {RULES}."
            )
    span = built.schedule.phases[-1]
    epochs = span.epochs if span.phase is Phase.QUANTIZE else 0
    callback.prepare(built.table, _kept(cfg, built.table), epochs)
    return callback


def write_rules(table: ModelTable, folder: Path) -> None:
    """Write the learned bits as rules, for another run, or an own preset."""
    bits = {(row.part, row.name): row.bits for row in table.layers if LEARNED in row.rules}
    rules = rules_of_bits({key: own for key, own in bits.items() if own is not None}, "learned")
    text = yaml.safe_dump(rules, sort_keys=False, default_flow_style=None, width=100)
    files.write_text(folder / RULES, f"# Learned bits, as rules of quant.rules.\n{text}")


def _kept(cfg: DictConfig, table: ModelTable) -> set[str]:
    """Return the names of layers and sites whose bits a rule gives."""
    gives = {
        (rule.key, part)
        for rule in rules_of(cfg.quant)
        for part, change in rule.changes.items()
        if change is not None and any(change.get(key) is not None for key in BITS)
    }
    return {row.name for row in table.layers if any((key, row.part) in gives for key in row.rules)}
