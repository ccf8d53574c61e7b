"""The solver: optimizer, parameter groups and learning rate schedule of a run.

`Solver` sorts parameters by their role and takes any optimizer of torch;
`qatlab.training.parameter_solver.ParameterSolver` sorts them by name.
"""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qatlab.errors import ConfigError, did_you_mean, unknown, wrong
from qatlab.training.lr_policy import LrPolicy, check_number, with_warmup
from qatlab.training.parameter_roles import GROUPS, network_bits, parameter_groups

GROUP_SETTINGS = ("lr", "weight_decay")


class AnySolver(ABC):
    """Builds the optimizer of a model and tells its learning rates at each position of a phase.

    Attributes:
        groups: settings of each parameter group, by its name.
        images_per_update: how many images each update is made of; None as long as it is not known.
    """

    groups: Mapping[str, Any]
    images_per_update: int | None = None

    @abstractmethod
    def build(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of all trainable parameters of ``model``, in named groups."""

    @abstractmethod
    def lr_factor(self, epoch: float, epochs: int, group: str | None = None) -> float:
        """Return the factor on the learning rate at ``epoch`` of a phase of ``epochs`` epochs.

        Args:
            epoch: epochs done in the phase.
            epochs: length of the phase.
            group: name of the parameter group; None: the first one.
        """

    @abstractmethod
    def lr_key(self, group: str) -> str:
        """Return the configuration key of the base learning rate of a parameter group."""

    def check_phase(self, epochs: int) -> None:
        """Raise a ConfigError for a policy that a phase of so many epochs is too short for."""
        for group in self.groups:
            self.lr_factor(0.0, epochs, group)

    def lr_scheduler(
        self, optimizer: Optimizer, position: Callable[[int], tuple[float, int]]
    ) -> LambdaLR:
        """Return the schedule of ``optimizer``, to be stepped after each of its steps.

        Args:
            optimizer: what `build` returned.
            position: optimizer steps done -> (epoch in the phase, epochs of the phase). It is
                also asked at the end of the last phase, where both are equal.
        """

        def factor(name: str) -> Callable[[int], float]:
            # A function: of other callables, torch would put the attributes into the checkpoint.
            return lambda step: self.lr_factor(*position(step), name)

        return LambdaLR(optimizer, [factor(group["name"]) for group in optimizer.param_groups])


class Solver(AnySolver):
    """A solver of the roles of `GROUPS`: one optimizer, one policy.

    Learning rates that are meant for updates of ``lr_at_batch`` images are scaled linearly:

        lr * images_per_update / lr_at_batch

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.1; also the warm-up of large batches, in
    section 2.2.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        lr_policy: LrPolicy,
        warmup_epochs: float,
        warmup_start: float,
        groups: Mapping[str, Mapping[str, float | None]],
        warmup_above: int | None = None,
        lr_at_batch: int | None = None,
        decay_by_bits: Mapping[int, float] | None = None,
    ) -> None:
        """Check all settings but the optimizer's own, which `build` checks.

        Args:
            optimizer: takes the parameter groups, its other arguments are bound.
            lr_policy: a function of `qatlab.training.lr_policy`, its options bound.
            warmup_epochs: epochs of linear warm-up at the start of each phase.
            warmup_start: factor on the learning rate at the start of the warm-up.
            groups: for each of `GROUPS` its ``lr`` and ``weight_decay``; None: the optimizer's, of
                ``depthwise`` those of ``weights``.
            warmup_above: only updates of more images than this have a warm-up; None: all.
            lr_at_batch: images of an update for which the learning rates are meant; None: for any.
            decay_by_bits: factor on the weight decay of all groups, by the `network_bits`.
        """
        # A wrong option is refused now, not after the data is loaded.
        starts_with = policy_factor("solver.lr_policy", lr_policy, 0.0, math.inf)
        self.optimizer = optimizer
        self.groups = _checked_groups(groups)
        self.lr_policy = lr_policy
        self.warmup_above = _checked_images("solver.warmup_above", warmup_above)
        self.lr_at_batch = _checked_images("solver.lr_at_batch", lr_at_batch)
        self.decay_by_bits = _checked_factors("solver.decay_by_bits", decay_by_bits)
        self._warmed_up = with_warmup(lr_policy, warmup_epochs, warmup_start)
        if warmup_epochs > 0 and starts_with != 1:
            raise ConfigError(
                "solver.warmup_epochs and solver.lr_policy.warmup_epochs are both above 0; set one "
                "of them to 0."
            )

    def build(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of all trainable parameters of ``model``, in named groups."""
        groups = [
            {"params": parameters, "name": name, **self.groups[name]}
            for name, parameters in parameter_groups(model).items()
        ]
        if not groups:
            raise ConfigError("solver: the model has no trainable parameter.")
        try:
            optimizer = self.optimizer(groups)
        except (TypeError, ValueError, IndexError) as error:
            raise _argument_error("solver.optimizer", self.optimizer, error) from error
        decay_factor = self.decay_by_bits.get(network_bits(model), 1.0)
        for group in optimizer.param_groups:
            # torch takes any key in a group and ignores the ones it does not know.
            if "weight_decay" in self.groups[group["name"]].keys() - optimizer.defaults.keys():
                raise ConfigError(
                    f"solver.groups.{group['name']}.weight_decay must be null: "
                    f"{type(optimizer).__name__} has no weight decay."
                )
            group["lr"] *= self._lr_scale
            if "weight_decay" in group:
                group["weight_decay"] *= decay_factor
        return optimizer

    def lr_factor(self, epoch: float, epochs: int, group: str | None = None) -> float:
        """See the base class; all groups share one policy."""
        above = self.warmup_above
        warms_up = above is None or (self.images_per_update or 0) > above
        return (self._warmed_up if warms_up else self.lr_policy)(epoch, epochs)

    def lr_key(self, group: str) -> str:
        """See the base class; a group without a learning rate of its own has the optimizer's."""
        return f"solver.groups.{group}.lr" if "lr" in self.groups[group] else "solver.optimizer.lr"

    @property
    def _lr_scale(self) -> float:
        """The factor on all learning rates for the size of the batch."""
        if self.lr_at_batch is None or self.images_per_update is None:
            return 1.0
        return self.images_per_update / self.lr_at_batch


def _checked_groups(
    groups: Mapping[str, Mapping[str, float | None]],
) -> dict[str, dict[str, float]]:
    """Check names and numbers; leave out what is None, so that the optimizer's own holds."""
    _check_keys("solver.groups", groups, GROUPS)
    checked: dict[str, dict[str, float]] = {}
    for name, settings in groups.items():
        path = f"solver.groups.{name}"
        _check_keys(path, settings, GROUP_SETTINGS)
        checked[name] = {
            key: check_number(f"{path}.{key}", value)
            for key, value in settings.items()
            if value is not None
        }
    return {**checked, "depthwise": {**checked["weights"], **checked["depthwise"]}}


def _checked_images(key: str, value: int | None) -> int | None:
    """Return a number of images, or None."""
    if value is not None and (type(value) is not int or value < 1):
        raise wrong(key, value, "a whole number above 0, or null")
    return value


def _checked_factors(key: str, factors: Mapping[int, float] | None) -> dict[int | None, float]:
    """Return factors by bits; none are given by None."""
    factors = {} if factors is None else factors
    whole = isinstance(factors, Mapping) and all(type(bits) is int for bits in factors)
    if not whole:
        accepted = "a mapping from bits to factors such as {3: 0.5, 2: 0.25}, or null"
        raise wrong(key, factors, accepted)
    return {bits: check_number(f"{key}.{bits}", factor) for bits, factor in factors.items()}


def _check_keys(path: str, mapping: Mapping[str, Any], accepted: tuple[str, ...]) -> None:
    """Raise unless ``mapping`` has exactly the accepted keys."""
    if not isinstance(mapping, Mapping):
        raise wrong(path, mapping, f"a mapping of {', '.join(accepted)}")
    for key in mapping:
        if key not in accepted:
            raise ConfigError(unknown(f"{path}.{key}", accepted))
    for key in accepted:
        if key not in mapping:
            raise ConfigError(f"{path}.{key} is missing.")


def policy_factor(path: str, policy: LrPolicy, epoch: float, epochs: float) -> float:
    """Return what a policy says of a position in a phase.

    Args:
        path: where the policy stands in the configuration.
        policy: a function of `qatlab.training.lr_policy`, its options bound.
        epoch: epochs done in the phase.
        epochs: length of the phase.

    Raises:
        ConfigError: for a wrong option, naming it.
    """
    try:
        return policy(epoch, epochs)
    except ConfigError as error:
        raise ConfigError(str(error).replace("solver.lr_policy", path)) from error
    except TypeError as error:
        raise _argument_error(path, policy, error) from error


def _argument_error(path: str, factory: Callable[..., Any], error: Exception) -> ConfigError:
    """Turn what ``factory`` said about its arguments into an error that names the config path."""
    target = getattr(factory, "func", factory)  # a partial with a wrong argument has no signature
    not_from_config = ("params", "epoch", "epochs")
    accepted = [
        name for name in inspect.signature(target).parameters if name not in not_from_config
    ]
    reason = str(error).rstrip(".") + "."
    if extra := re.search(r"unexpected keyword argument '(\w+)'", reason):
        name = getattr(target, "__name__", repr(target))
        hint = did_you_mean(extra[1], accepted)
        reason = f"{name} has no argument '{extra[1]}'.{hint}"
    return ConfigError(f"{path}: {reason} Accepted: {', '.join(accepted) or 'no options'}.")
