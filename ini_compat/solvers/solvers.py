"""N2D2's solvers as parameter groups of ``solver=by_parameter``."""

from __future__ import annotations

import math

from ini_compat.errors import IniError, did_you_mean
from ini_compat.network import Node
from ini_compat.solvers.lr_policies import read_policy
from ini_compat.solvers.settings import BELOW_ONE, Keys, Pace, Settings
from ini_compat.syntax.resolve import Section

PARAMETERS = {
    "SGD": (
        *("LearningRate", "Momentum", "Decay", "Power", "IterationSize", "MaxIterations"),
        *("WarmUpDuration", "WarmUpLRFrac", "LearningRatePolicy", "LearningRateStepSize"),
        *("LearningRateDecay", "Clamping", "PolyakMomentum", "MinDecay"),
    ),
    "Adam": ("LearningRate", "Beta1", "Beta2", "Epsilon", "Clamping"),
}


def solver_type(section: Section, key: str) -> str:
    """Return ``SGD`` or ``Adam`` for a key such as ``Solvers``."""
    word = section.text(key)
    plain = word.removesuffix("_CUDA").removesuffix("_Frame")
    if plain not in PARAMETERS:
        raise section.wrong(key, PARAMETERS)
    return plain


def group(kind: str, keys: Keys, pace: Pace) -> Node:
    """Return the settings of a parameter group of ``solver=by_parameter``.

    Args:
        kind: ``SGD`` or ``Adam``.
        keys: what the file says; all else has N2D2's default.
        pace: for counts of samples.

    Raises:
        IniError: for unknown parameters and wrong values.
    """
    accepted = PARAMETERS[kind]
    for name, (section, key) in keys.items():
        if name not in accepted:
            raise IniError(
                f"[{section.name}] {key}: {kind} has no parameter {name}, and N2D2 does not load "
                f"the file.{did_you_mean(name, accepted)} Accepted: {', '.join(accepted)}",
                section.place(key),
            )
    settings = Settings(keys, pace)
    return _adam(settings) if kind == "Adam" else _sgd(settings)


def _adam(settings: Settings) -> Node:
    node: Node = {"method": "adam", "lr": settings.real("LearningRate", 0.001)}
    betas = [
        settings.real("Beta1", 0.9, highest=BELOW_ONE),
        settings.real("Beta2", 0.999, highest=BELOW_ONE),
    ]
    node |= {"betas": betas} if betas != [0.9, 0.999] else {}
    epsilon = settings.real("Epsilon", 1e-8)
    node |= {"eps": epsilon} if epsilon != 1e-8 else {}
    return node | _clamp(settings)


def _sgd(settings: Settings) -> Node:
    node: Node = {"lr": settings.real("LearningRate", 0.01)}
    momentum, decay = settings.real("Momentum", 0.0), settings.real("Decay", 0.0)
    node |= {"momentum": momentum} if momentum else {}
    node |= {"weight_decay": decay} if decay else {}
    node |= _clamp(settings)
    size = settings.unsigned("IterationSize", 1)
    if size == 0:
        raise settings.wrong("IterationSize", "1 or more")
    settings.pace.iteration_sizes.append(size)
    policy = read_policy(settings, size)
    if "PolyakMomentum" in settings.keys:
        settings.note("PolyakMomentum", "N2D2 itself never reads it", "ignored")
    return node | ({"lr_policy": policy} if policy else {})


def _clamp(settings: Settings) -> Node:
    text = settings.text("Clamping")
    if not text:
        return {}
    low, colon, high = text.partition(":")
    try:
        bounds = [float(word) if word.strip() else None for word in (low, high)]
    except ValueError:
        colon = ""
    if not colon or not all(b is None or math.isfinite(b) for b in bounds):
        raise settings.wrong("Clamping", "low:high, each optional")
    if None not in bounds and not bounds[0] < bounds[1]:  # type: ignore[operator]
        raise settings.wrong("Clamping", "low:high, low below high")
    return {"clamp": bounds} if bounds != [None, None] else {}
