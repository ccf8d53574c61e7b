"""Settings of the parameters that one pattern of names matches, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from qatlab.errors import ConfigError, text, wrong
from qatlab.errors.arguments import check_arguments
from qatlab.training.lr_policy import LrPolicy, check_number, constant
from qatlab.training.solver import policy_factor

METHOD_OPTIONS = {"sgd": ("momentum", "weight_decay"), "adam": ("betas", "eps")}


@dataclass(frozen=True)
class ParameterGroup:
    """Settings of the parameters whose names match.

    Attributes:
        parameters: a glob over names of parameters, or several.
        method: ``sgd`` or ``adam``, see `MixedOptimizer`.
        lr: base learning rate; None: 0.01, of ``adam`` 0.001.
        momentum: of ``sgd``: what is left of the last update.
        weight_decay: of ``sgd``: share of a parameter that is added to its gradient.
        betas: of ``adam``: decay of the means of gradient and squared gradient; None: 0.9, 0.999.
        eps: of ``adam``: added to the denominator; None: 1e-8.
        clamp: lowest and highest value after an update, None for no bound; or None for both.
        lr_policy: a function of `qatlab.training.lr_policy`, its options bound.
    """

    parameters: str | Sequence[str]
    method: Literal["sgd", "adam"] = "sgd"
    lr: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    betas: Sequence[float] | None = None
    eps: float | None = None
    clamp: Sequence[float | None] | None = None
    lr_policy: LrPolicy = constant

    @classmethod
    def of(cls, path: str, settings: Any) -> ParameterGroup:
        """Read the settings of a group.

        Args:
            path: where they stand in the configuration.
            settings: values by name.

        Raises:
            ConfigError: naming the one that is wrong.
        """
        if not isinstance(settings, Mapping):
            names = ", ".join(field.name for field in fields(cls))
            raise wrong(path, settings, f"a mapping of {names}")
        policy = settings.get("lr_policy", constant)
        if not callable(policy):
            accepted = "a mapping with _target_ and _partial_: true, as in conf/solver/lr_policy"
            raise wrong(f"{path}.lr_policy", policy, accepted)
        check_arguments(path, cls, settings)
        group = cls(**{"parameters": [], **settings})
        group._check(path)
        return group

    @property
    def patterns(self) -> tuple[str, ...]:
        """The globs."""
        return (self.parameters,) if isinstance(self.parameters, str) else tuple(self.parameters)

    def for_optimizer(self) -> dict[str, Any]:
        """Return what `MixedOptimizer` takes."""
        low, high = (None, None) if self.clamp is None else self.clamp
        sgd = self.method == "sgd"
        default = 0.01 if sgd else 0.001
        lr = default if self.lr is None else self.lr
        common = {"method": self.method, "lr": lr, "clamp": (low, high)}
        if sgd:
            return {**common, "momentum": self.momentum, "weight_decay": self.weight_decay}
        betas = (0.9, 0.999) if self.betas is None else tuple(self.betas)
        return {**common, "betas": betas, "eps": 1e-8 if self.eps is None else self.eps}

    def _check(self, path: str) -> None:
        if not self.patterns or not all(isinstance(p, str) and p for p in self.patterns):
            raise ConfigError(
                f"{path}.parameters is missing or not a pattern. Accepted: a pattern of parameter "
                "names such as *.bias, or a list of them."
            )
        (other,) = METHOD_OPTIONS.keys() - {self.method}
        for name in METHOD_OPTIONS[other]:
            if getattr(self, name):  # 0 and null say the same as nothing
                raise ConfigError(
                    f"{path}.{name}={text(getattr(self, name))} cannot be combined with method="
                    f"{self.method}, as it is an option of method={other}."
                )
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if getattr(self, name) is not None:
                check_number(f"{path}.{name}", getattr(self, name))
        if self.betas is not None and not _are_shares(self.betas):
            raise wrong(f"{path}.betas", self.betas, "two numbers in [0, 1), or null")
        if self.clamp is not None and not _are_bounds(self.clamp):
            accepted = "[lowest, highest], either of which may be null, or null"
            raise wrong(f"{path}.clamp", self.clamp, accepted)
        policy_factor(f"{path}.lr_policy", self.lr_policy, 0.0, math.inf)


def _are_shares(values: Sequence[Any]) -> bool:
    return len(values) == 2 and all(_is_number(value) and 0 <= value < 1 for value in values)


def _are_bounds(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    return len(values) == 2 and all(map(_is_number, given)) and given == sorted(set(given))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
