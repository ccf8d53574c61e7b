"""Learning rate policies: the factor on the base learning rate at a position in a phase.

Each policy is a pure function of the position, so a resumed run needs no scheduler state. The
position is counted in epochs, the option values are those of ``solver.lr_policy``. N2D2 counts
updates or the samples of these instead; each docstring gives the conversion. In it U is the number
of updates in an epoch, and N = U * batch size * IterationSize that of samples: a last batch that is
smaller counts as a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from qatlab.errors import wrong

LrPolicy = Callable[[float, float], float]
"""(position in epochs, length of the phase in epochs) -> factor on the base learning rate."""


def constant(epoch: float, epochs: float) -> float:
    """Keep the base learning rate (N2D2: ``None``)."""
    return 1.0


def cosine(
    epoch: float,
    epochs: float,
    *,
    final: float = 0.0,
    over: float | None = None,
    every: float | None = None,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.25,
) -> float:
    """Fall from 1 to ``final`` along half a cosine over the phase, or over ``over`` epochs.

        final + (1 - final) * (1 + cos(pi * (epoch - warmup) / (epochs - warmup))) / 2

    Before, a linear rise from ``warmup_start`` to 1 takes ``warmup_epochs``. With ``every`` the
    position moves in steps of so many epochs. Beyond ``over`` the cosine rises again, as in N2D2.

    N2D2: ``CosineDecay`` with LearningRateStepSize = every * N (None: 1 sample), MinDecay = final,
    MaxIterations * LearningRateStepSize = over * N, WarmUpLRFrac = warmup_start and
    WarmUpDuration * LearningRateStepSize = warmup_epochs * N.
    """
    final = check_number("solver.lr_policy.final", final, highest=1.0)
    check_number("solver.lr_policy.warmup_epochs", warmup_epochs)
    check_number("solver.lr_policy.warmup_start", warmup_start, highest=1.0)
    length = _length(epochs, over)
    if warmup_epochs >= length:
        phases = f"the epochs of each phase, of which one has {epochs}"
        below = f"less than {phases if over is None else f'over={over}'}"
        raise wrong("solver.lr_policy.warmup_epochs", warmup_epochs, below)
    if every is not None:
        epoch = every * _steps(epoch, every)
    if epoch < warmup_epochs:
        return _rise(epoch, warmup_epochs, warmup_start)
    progress = (epoch - warmup_epochs) / (length - warmup_epochs)
    if over is None:
        progress = min(progress, 1.0)  # a rounded position may pass the end
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


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


def polynomial(epoch: float, epochs: float, *, power: float, over: float | None = None) -> float:
    """Fall from 1 to 0 over the phase or over ``over`` epochs, linearly for ``power`` 1.

        (1 - epoch / epochs) ** power

    Beyond ``over`` it stays where it is, as in N2D2.

    N2D2: ``PolyDecay`` with MaxIterations = over * U and Power = power.
    """
    power = check_number("solver.lr_policy.power", power)
    left = 1 - epoch / _length(epochs, over)
    # Exactly 0 at the end, where a quotient may be rounded: at a rate of 0 momentum stops, too.
    return math.pow(left if left > 1e-12 else 0.0, power)


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

    The policy runs over the epochs that are left, and counts from the end of the rise.
    """
    check_number("solver.warmup_epochs", warmup_epochs)
    check_number("solver.warmup_start", warmup_start, highest=1.0)

    def warmed_up(epoch: float, epochs: float) -> float:
        if warmup_epochs >= epochs:
            below = f"less than the epochs of each phase, of which one has {epochs}"
            raise wrong("solver.warmup_epochs", warmup_epochs, below)
        if epoch < warmup_epochs:
            return _rise(epoch, warmup_epochs, warmup_start)
        return policy(epoch - warmup_epochs, epochs - warmup_epochs)

    return warmed_up


def check_number(
    key: str, value: float, *, highest: float = math.inf, positive: bool = False
) -> float:
    """Return ``value`` if it is a number from 0 (above 0 if ``positive``) to ``highest``."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    if not is_number or not 0 <= value <= highest or (positive and value == 0):
        accepted = "above 0" if positive else "of at least 0"
        if highest < math.inf:
            accepted = f"from 0 to {highest:g}"
        raise wrong(key, value, f"a number {accepted}")
    return value


def _length(epochs: float, over: float | None) -> float:
    """Return over how many epochs a policy falls."""
    if over is None:
        return epochs
    return check_number("solver.lr_policy.over", over, positive=True)


def _rise(epoch: float, warmup_epochs: float, warmup_start: float) -> float:
    """Return the factor at ``epoch`` of a warm-up."""
    return warmup_start + (1 - warmup_start) * epoch / warmup_epochs


def _steps(epoch: float, every: float) -> int:
    """How many times ``every`` epochs are over."""
    every = check_number("solver.lr_policy.every", every, positive=True)
    # 0.3 / 0.1 is just below 3 in floating point; the drop would come one update late.
    return math.floor(epoch / every + 1e-9)
