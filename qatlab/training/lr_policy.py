"""Learning rate policies: the factor on the base learning rate at a position in a phase.

Each policy is a pure function of the position, so a resumed run needs no scheduler state. The
position is counted in epochs, the option values are those of ``solver.lr_policy``. N2D2 counts
samples or updates instead; for a training set of N images and U updates per epoch
(U = N / (batch size * IterationSize)) each docstring gives the conversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qatlab.errors import ConfigError

LrPolicy = Callable[[float, float], float]
"""(position in epochs, length of the phase in epochs) -> factor on the base learning rate."""


def constant(epoch: float, epochs: float) -> float:
    """Keep the base learning rate (N2D2: ``None``)."""
    return 1.0


def cosine(epoch: float, epochs: float, *, final: float = 0.0) -> float:
    """Fall from 1 to ``final`` along half a cosine over the phase.

        final + (1 - final) * (1 + cos(pi * epoch / epochs)) / 2

    N2D2: ``CosineDecay`` with MinDecay = final and
    MaxIterations * LearningRateStepSize = epochs * N. Its WarmUpDuration is `with_warmup`.
    """
    final = check_number("solver.lr_policy.final", final, highest=1.0)
    return final + (1 - final) * (1 + math.cos(math.pi * _progress(epoch, epochs))) / 2


def step(epoch: float, epochs: float, *, every: float, factor: float = 0.1) -> float:
    """Multiply the learning rate by ``factor`` after each ``every`` epochs.

        factor ** floor(epoch / every)

    N2D2: ``StepDecay`` with LearningRateStepSize = every * N and LearningRateDecay = factor.
    """
    factor = check_number("solver.lr_policy.factor", factor, highest=1.0)
    return math.pow(factor, _steps(epoch, every))


def exponential(epoch: float, epochs: float, *, every: float | None, decay: float) -> float:
    """Decay exponentially, in steps of ``every`` epochs or, where it is None, continuously.

        exp(-decay * floor(epoch / every))   or   exp(-decay * epoch)

    N2D2: ``ExponentialDecay`` with LearningRateStepSize = every * N and LearningRateDecay = decay.
    With a step size of 1 sample it is continuous: decay = LearningRateDecay * N.
    """
    decay = check_number("solver.lr_policy.decay", decay)
    return math.exp(-decay * (epoch if every is None else _steps(epoch, every)))


def inverse_time(epoch: float, epochs: float, *, every: float, decay: float) -> float:
    """Divide the learning rate by a number that grows by ``decay`` after each ``every`` epochs.

        1 / (1 + decay * floor(epoch / every))

    N2D2: ``InvTDecay`` with LearningRateStepSize = every * N and LearningRateDecay = decay.
    """
    decay = check_number("solver.lr_policy.decay", decay)
    return 1 / (1 + decay * _steps(epoch, every))


def polynomial(epoch: float, epochs: float, *, power: float) -> float:
    """Fall from 1 to 0 over the phase, linearly for ``power`` 1.

        (1 - epoch / epochs) ** power

    N2D2: ``PolyDecay`` with MaxIterations = epochs * U and Power = power.
    """
    power = check_number("solver.lr_policy.power", power)
    return math.pow(1 - _progress(epoch, epochs), power)


def inverse(epoch: float, epochs: float, *, decay: float, power: float) -> float:
    """Fall as a power of the time trained.

        (1 + decay * epoch) ** -power

    N2D2: ``InvDecay`` with LearningRateDecay = decay / U and Power = power.
    """
    decay = check_number("solver.lr_policy.decay", decay)
    power = check_number("solver.lr_policy.power", power)
    return math.pow(1 + decay * epoch, -power)


def with_warmup(policy: LrPolicy, warmup_epochs: float, warmup_start: float) -> LrPolicy:
    """Return ``policy`` preceded by a linear rise from ``warmup_start`` to 1.

    The policy runs over the epochs that are left, as in N2D2's ``CosineDecay``, where
    WarmUpDuration * LearningRateStepSize = warmup_epochs * N and WarmUpLRFrac = warmup_start.
    """
    check_number("solver.warmup_epochs", warmup_epochs)
    check_number("solver.warmup_start", warmup_start, highest=1.0)

    def warmed_up(epoch: float, epochs: float) -> float:
        if warmup_epochs >= epochs:
            raise ConfigError(
                f"solver.warmup_epochs={warmup_epochs} must be less than the epochs of each phase; "
                f"one has {epochs}."
            )
        if epoch < warmup_epochs:
            return warmup_start + (1 - warmup_start) * epoch / warmup_epochs
        return policy(epoch - warmup_epochs, epochs - warmup_epochs)

    return warmed_up


def check_number(
    key: str, value: float, *, highest: float = math.inf, positive: bool = False
) -> float:
    """Return ``value`` if it is a number from 0 (above 0 if ``positive``) to ``highest``."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or not 0 <= value <= highest or (positive and value == 0):
        accepted = "above 0" if positive else "of 0 or more"
        if highest < math.inf:
            accepted = f"from 0 to {highest:g}"
        raise ConfigError(f"{key}={value!r} must be a number {accepted}.")
    return value


def _progress(epoch: float, epochs: float) -> float:
    """Share of the phase that is over; at most 1, as a rounded position may pass the end."""
    return min(epoch / epochs, 1.0)


def _steps(epoch: float, every: float) -> int:
    """How many times ``every`` epochs are over."""
    every = check_number("solver.lr_policy.every", every, positive=True)
    # 0.3 / 0.1 is just below 3 in floating point; the drop would come one update late.
    return math.floor(epoch / every + 1e-9)
