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

from qatlab.errors import ConfigError, did_you_mean
from qatlab.quant.quantizer import Quantizer
from qatlab.training.lr_policy import LrPolicy, check_number, with_warmup

GROUPS = ("weights", "norms_and_biases", "quantizers")
GROUP_SETTINGS = ("lr", "weight_decay")


class AnySolver(ABC):
    """Builds the optimizer of a model and tells its learning rates at each position of a phase.

    Attributes:
        groups: settings of each parameter group, by its name.
    """

    groups: Mapping[str, Any]

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
    """A solver of weights, norms and biases, and quantizers: one optimizer, one policy."""

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        lr_policy: LrPolicy,
        warmup_epochs: float,
        warmup_start: float,
        groups: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Check all settings but the optimizer's own, which `build` checks.

        Args:
            optimizer: takes the parameter groups, its other arguments are bound.
            lr_policy: a function of `qatlab.training.lr_policy`, its options bound.
            warmup_epochs: epochs of linear warm-up at the start of each phase.
            warmup_start: factor on the learning rate at the start of the warm-up.
            groups: for each of `GROUPS` its ``lr`` and ``weight_decay``; None: the optimizer's.
        """
        # A wrong option is told now, not after the data is loaded.
        starts_with = policy_factor("solver.lr_policy", lr_policy, 0.0, math.inf)
        self.optimizer = optimizer
        self.groups = _checked_groups(groups)
        self._lr_factor = with_warmup(lr_policy, warmup_epochs, warmup_start)
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
        except (TypeError, ValueError) as error:
            raise _argument_error("solver.optimizer", self.optimizer, error) from error
        for group in optimizer.param_groups:
            # torch takes any key in a group and ignores the ones it does not know.
            if "weight_decay" in self.groups[group["name"]].keys() - optimizer.defaults.keys():
                raise ConfigError(
                    f"solver.groups.{group['name']}.weight_decay must be null: "
                    f"{type(optimizer).__name__} has no weight decay."
                )
        return optimizer

    def lr_factor(self, epoch: float, epochs: int, group: str | None = None) -> float:
        """See the base class; all groups share one policy."""
        return self._lr_factor(epoch, epochs)

    def lr_key(self, group: str) -> str:
        """See the base class; a group without a learning rate of its own has the optimizer's."""
        return f"solver.groups.{group}.lr" if "lr" in self.groups[group] else "solver.optimizer.lr"


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort the trainable parameters of ``model`` into those of `GROUPS` that are not empty.

    Parameters owned by a quantizer are ``quantizers``; of the others, those with two or more
    dimensions are ``weights`` and the rest is ``norms_and_biases``. A shared one is in the group
    of its first owner.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if isinstance(module, Quantizer):
                groups["quantizers"].append(parameter)
            elif parameter.ndim >= 2:
                groups["weights"].append(parameter)
            else:
                groups["norms_and_biases"].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


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
    return checked


def _check_keys(path: str, mapping: Mapping[str, Any], accepted: tuple[str, ...]) -> None:
    """Raise unless ``mapping`` has exactly the accepted keys."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{path}={mapping!r} must be a mapping of: {', '.join(accepted)}.")
    for key in mapping:
        if key not in accepted:
            raise ConfigError(
                f"{path}.{key} is unknown.{did_you_mean(key, accepted)} "
                f"Accepted: {', '.join(accepted)}."
            )
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
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", reason):
        name = getattr(target, "__name__", repr(target))
        hint = did_you_mean(unknown[1], accepted)
        reason = f"{name} has no argument '{unknown[1]}'.{hint}"
    return ConfigError(f"{path}: {reason} Accepted: {', '.join(accepted) or 'no options'}.")
