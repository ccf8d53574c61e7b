"""The one place where configuration becomes objects."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qatlab.config.targets import make
from qatlab.data import ImageModule
from qatlab.deploy.obstacles import IN_INTEGERS, forms_of
from qatlab.errors import ConfigError, wrong
from qatlab.quant import ModelTable, Phase, float_table
from qatlab.quant.trace import trace
from qatlab.run.quantized import quantized, rules_of
from qatlab.run.weights import init_weights
from qatlab.system.terminal import say
from qatlab.training.distillation import Distillation
from qatlab.training.forward import TrainingForward
from qatlab.training.limits import check_trainer
from qatlab.training.loss import Loss, check_network, losses_of
from qatlab.training.mixup import Mixup
from qatlab.training.schedule import Schedule
from qatlab.training.solver import AnySolver
from qatlab.training.sync_norm import synchronise_norms

INSTANTIATED = ("data", "model", "quant", "solver", "loss")  # groups that become objects here


@dataclass
class Built:
    """What a configuration describes, before any trainer exists."""

    data: ImageModule
    model: nn.Module
    table: ModelTable
    schedule: Schedule
    solver: AnySolver
    losses: Sequence[Loss]
    step: TrainingForward
    mixup: float
    distillation: Distillation | None = None

    @property
    def classifies(self) -> bool:
        """Whether the first output has a number for each class."""
        return self.losses[0].classifies


def build(cfg: DictConfig, trained: bool = False) -> Built:
    """Make data, network and solver; the structure of the network is final from here on.

    Args:
        cfg: the configuration.
        trained: the weights are to be used as they are, so that all of them have to be given.
    """
    if not 0 <= cfg.seed < 1 << 32:
        raise wrong("seed", cfg.seed, "a whole number from 0 to 2^32 - 1")
    _compute_exactly()
    _seed(cfg.seed)
    data = make("data", cfg.data, ImageModule)
    model, table = network(cfg, data, trained)
    example = data.example_input()
    epochs = {phase: cfg.schedule[f"{phase.value}_epochs"] for phase in Phase}
    falling_bits: Any = cfg.schedule.falling_bits
    if OmegaConf.is_config(falling_bits):
        falling_bits = OmegaConf.to_container(falling_bits, resolve=True)
    first_epochs = cfg.schedule.first_epochs
    schedule = Schedule.of(epochs, model, falling_bits, cfg.schedule.falling_epochs, first_epochs)
    check_trainer(cfg.trainer, schedule)
    solver = _solver(cfg.solver)
    solver.images_per_update = data.batch_size * cfg.trainer.accumulate_grad_batches
    for span in schedule.phases:
        solver.check_phase(span.epochs)  # a warm-up that is too long is refused now
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)  # convolutions answer as their weights lie
    step = TrainingForward(cfg.compile, cfg.memory)
    step.check_model(model)
    losses = losses_of(make("loss", cfg.loss))
    check_network(losses, model, example, data.num_classes)
    if cfg.trainer.precision == "64-true":
        model.double()  # Lightning would do so only after a checkpoint was read into float32
    return Built(data, model, table, schedule, solver, losses, step, Mixup(cfg.mixup).alpha)


def network(
    cfg: DictConfig,
    data: ImageModule,
    trained: bool = False,
    report: Callable[[str], None] = say,
) -> tuple[nn.Module, ModelTable]:
    """Make the network with its quantizers and weights, and its table; see :func:`build`.

    Args:
        report: is given a sentence about the weights that were loaded.
    """
    arguments = {"num_classes": data.num_classes, "in_channels": data.in_channels}
    model = make("model", cfg.model, nn.Module, offered=arguments)
    if cfg.trainer.sync_batchnorm:
        synchronise_norms(model)  # not by Lightning: quantizers absorb the norms that they find
    is_float = cfg.quant.weight is None and cfg.quant.activation is None
    example = data.example_input()
    unused = set() if cfg.init_weights is None else _unused(model)
    if not is_float:
        model, table = quantized(cfg.quant, model, example, _inputs_of_functions(cfg))
    else:
        if cfg.quant.one_step_for_sums:
            raise ConfigError(
                "quant.one_step_for_sums=true has no effect, as quant.weight and quant.activation "
                "are null"
            )
        # An experiment's rules may be optional, so that quant=none gives its float network.
        if unused_rules := [rule.key for rule in rules_of(cfg.quant) if not rule.optional]:
            raise ConfigError(
                f"quant.rules.{unused_rules[0]} has no effect, as quant.weight and "
                "quant.activation are both null"
            )
        table = float_table(model, example)
    if cfg.init_weights is not None:
        falls = trained and bool(cfg.schedule.falling_bits)
        report(init_weights(model, cfg.init_weights, unused, whole=trained, same_bits=falls))
        table = table.with_learned_bits(model)
    return model, table


def _inputs_of_functions(cfg: DictConfig) -> bool:
    """Tell whether the network has to leave in whole numbers, unless the configuration says it."""
    asked = cfg.quant.inputs_of_functions
    if asked is None:
        return not IN_INTEGERS.isdisjoint(forms_of(cfg.target))
    if not isinstance(asked, bool):
        raise wrong("quant.inputs_of_functions", asked, "true, false or null")
    return asked


def _seed(seed: int) -> None:
    """Begin all sequences of random numbers, here and in processes that Lightning starts."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"] = str(seed), "1"


def _unused(model: nn.Module) -> set[str]:
    """Return the names of the values of modules that a network never calls."""
    return model.state_dict().keys() - trace(model).state_dict().keys()


def _solver(node: DictConfig) -> AnySolver:
    try:
        solver: AnySolver = make("solver", node, AnySolver)
    except TypeError as error:  # of a policy that is called too early
        raise ConfigError(f"solver: {error}; each lr_policy needs _partial_: true.") from error
    return solver


def _compute_exactly() -> None:
    """Let GPU and CPU agree to float32, and do not fill memory that is written to anyway."""
    torch.backends.cuda.matmul.allow_tf32 = False
    # A guard against reading what was never written: 3 to 14 % of a step of MobileNet-V2 on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
