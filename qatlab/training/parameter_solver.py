"""The solver whose groups are chosen by the names of parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from qatlab.errors import ConfigError, did_you_mean, wrong
from qatlab.training.mixed_optimizer import MixedOptimizer
from qatlab.training.parameter_group import ParameterGroup
from qatlab.training.solver import AnySolver, policy_factor

LEARNED = ("alpha", "step_size", "offset")  # what quantizers learn
OF_WEIGHTS = "weight_quantizer"
MOST_LISTED = 20  # names of parameters in a message


class ParameterSolver(AnySolver):
    """A solver with settings and a learning rate policy for each group of parameters.

    Every trainable parameter belongs to the last group that has a pattern for its name. A pattern
    has to match a parameter, except that one for something that quantizers learn, such as
    ``*.alpha``, may find none where no quantizer of the model learns such a thing; so the same
    groups also serve ``quant=none`` or another method.
    """

    def __init__(self, groups: Mapping[str, Any]) -> None:
        """Check all settings, but for the patterns, which `build` checks.

        Args:
            groups: by name the settings of a `ParameterGroup`; later ones go before earlier ones.
        """
        if not isinstance(groups, Mapping) or not groups:
            accepted = "a mapping with at least one group, such as main: {parameters: '*'}"
            raise wrong("solver.groups", groups, accepted)
        self.groups: dict[str, ParameterGroup] = {
            str(name): ParameterGroup.of(f"solver.groups.{name}", settings)
            for name, settings in groups.items()
        }

    def build(self, model: nn.Module) -> MixedOptimizer:
        """See the base class; groups that are excused for having no parameter are left out."""
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise ConfigError("solver: the model has no trainable parameter.")
        members = self.members(trainable)
        return MixedOptimizer(
            {
                "params": [trainable[name] for name in names],
                "name": group,
                **self.groups[group].for_optimizer(),
            }
            for group, names in members.items()
        )

    def members(self, names: Collection[str]) -> dict[str, list[str]]:
        """Sort names of parameters into those groups that are not empty.

        Raises:
            ConfigError: for a name without a group, a pattern without a name that should have one,
                or a group all of whose names belong to later groups.
        """
        owner: dict[str, str] = {}
        matched: set[str] = set()
        for group, settings in self.groups.items():
            for pattern in settings.patterns:
                found = [name for name in names if fnmatchcase(name, pattern)]
                if not found and not _is_excused(pattern, names):
                    near = [*names, *(f"*.{name.rpartition('.')[2]}" for name in names)]
                    raise ConfigError(
                        f"solver.groups.{group}.parameters: {pattern} matches no parameter."
                        f"{did_you_mean(pattern, near)} Accepted: {_listed(names)}."
                    )
                owner |= dict.fromkeys(found, group)
                matched |= {group} if found else set()
        for name in names:
            if name not in owner:
                raise ConfigError(
                    f"solver.groups has no group for the parameter {name}; begin with one for all, "
                    "such as main: {parameters: '*'}."
                )
        members = {
            group: [name for name in names if owner[name] == group]
            for group in self.groups
            if group in matched
        }
        for group, own in members.items():
            if not own:
                raise ConfigError(
                    f"solver.groups.{group} is left with no parameter: all that it matches belong "
                    "to later groups; remove it, or move it behind them."
                )
        return members

    def lr_factor(self, epoch: float, epochs: int, group: str | None = None) -> float:
        """See the base class."""
        name = next(iter(self.groups)) if group is None else group
        path = f"solver.groups.{name}.lr_policy"
        return policy_factor(path, self.groups[name].lr_policy, epoch, epochs)

    def lr_key(self, group: str) -> str:
        """See the base class."""
        return f"solver.groups.{group}.lr"


def _is_excused(pattern: str, names: Collection[str]) -> bool:
    """Tell whether a pattern is for what a quantizer learns, and no quantizer learns that."""
    return pattern.rpartition(".")[2] in LEARNED and _kind(pattern) not in map(_kind, names)


def _kind(name: str) -> tuple[bool, str]:
    owner, _, last = name.rpartition(".")
    return owner.endswith(OF_WEIGHTS), last


def _listed(names: Collection[str]) -> str:
    """Return the first names; all those of a deep network would fill a screen."""
    first = ", ".join(list(names)[:MOST_LISTED])
    return first + (f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else "")
