"""N2D2's learning rate policies as those of qatlab: samples and updates become epochs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from ini_compat.network import Node
from ini_compat.solvers.settings import Settings

POLICIES = {  # what each reads beside LearningRate
    "None": (),
    "StepDecay": ("LearningRateStepSize", "LearningRateDecay"),
    "ExponentialDecay": ("LearningRateStepSize", "LearningRateDecay"),
    "InvTDecay": ("LearningRateStepSize", "LearningRateDecay"),
    "InvDecay": ("LearningRateDecay", "Power"),
    "PolyDecay": ("MaxIterations", "Power"),
    "CosineDecay": (
        *("MaxIterations", "LearningRateStepSize"),
        *("WarmUpDuration", "WarmUpLRFrac", "MinDecay"),
    ),
}
# With any policy but None, MaxIterations is also where N2D2 stops to count updates.
OF_POLICIES = {key for keys in POLICIES.values() for key in keys} - {"MaxIterations"}


def read_policy(settings: Settings, iteration_size: int) -> Node:
    """Return ``lr_policy`` of a parameter group; an empty node for a constant rate.

    Args:
        settings: of an SGD solver.
        iteration_size: batches for each update.

    Raises:
        IniError: for an unknown policy, and for numbers that it cannot have.
    """
    name = settings.choice("LearningRatePolicy", tuple(POLICIES), "None")
    for parameter in settings.keys:
        if parameter in OF_POLICIES and parameter not in POLICIES[name]:
            settings.note(parameter, f"no effect with LearningRatePolicy={name}", "ignored")
    if name == "None":
        return {}
    return READERS[name](settings, iteration_size)


def _step(settings: Settings, iteration_size: int) -> Node:
    _, every = _step_size(settings, iteration_size)
    factor = settings.real("LearningRateDecay", 0.1, highest=1.0)
    _count_goes_on(settings, iteration_size)
    return _node("step", every=every, factor=factor)


def _exponential(settings: Settings, iteration_size: int) -> Node:
    size, every = _step_size(settings, iteration_size)
    decay = settings.real("LearningRateDecay", 0.1)
    _count_goes_on(settings, iteration_size)
    if size > 1:
        return _node("exponential", every=every, decay=decay)
    per_epoch = decay * float(settings.pace.samples(iteration_size))
    return _node("exponential", every=None, decay=per_epoch)


def _inverse_time(settings: Settings, iteration_size: int) -> Node:
    _, every = _step_size(settings, iteration_size)
    decay = settings.real("LearningRateDecay", 0.1)
    _count_goes_on(settings, iteration_size)
    return _node("inverse_time", every=every, decay=decay)


def _inverse(settings: Settings, iteration_size: int) -> Node:
    decay = settings.real("LearningRateDecay", 0.1)
    per_epoch = decay * float(settings.pace.updates(iteration_size))
    _count_goes_on(settings, iteration_size)
    return _node("inverse", decay=per_epoch, power=settings.real("Power", 0.0))


def _polynomial(settings: Settings, iteration_size: int) -> Node:
    updates = settings.unsigned("MaxIterations", 0)
    over: float | None = None
    if updates == 0:
        settings.note(
            "MaxIterations" if "MaxIterations" in settings.keys else "LearningRatePolicy",
            "with MaxIterations=0 N2D2's rate is NaN; here it decays over the whole schedule",
        )
    else:
        over = settings.epochs("MaxIterations", updates, settings.pace.updates(iteration_size))
        settings.pace.lengths.append(over)
    return _node("polynomial", power=settings.real("Power", 0.0), over=over)


def _cosine(settings: Settings, iteration_size: int) -> Node:
    size, every = _step_size(settings, iteration_size)
    samples = settings.pace.samples(iteration_size)
    arguments: dict[str, float | None] = {"final": settings.real("MinDecay", 0.0, highest=1.0)}
    units, warm_up = settings.unsigned("MaxIterations", 0), settings.unsigned("WarmUpDuration", 0)
    over: float | None = None
    if units == 0:
        settings.note(
            "LearningRatePolicy",
            "without MaxIterations N2D2's rate is 0 from the start; here the cosine lasts as long "
            "as the schedule",
        )
    else:
        if warm_up >= units:
            raise settings.wrong("WarmUpDuration", f"less than MaxIterations={units}")
        over = settings.epochs("MaxIterations", units * size, samples)
        settings.pace.lengths.append(over)
    arguments["over"] = over
    per_update = settings.pace.batch_size * iteration_size
    if per_update % size:
        arguments["every"] = every
    if units and size > per_update:
        _count_goes_on(settings, iteration_size)
    if warm_up:
        start = settings.real("WarmUpLRFrac", 0.25, highest=1.0)
        arguments["warmup_epochs"] = settings.epochs("WarmUpDuration", warm_up * size, samples)
        arguments["warmup_start"] = start
        if start == 0:
            settings.note("WarmUpLRFrac", "N2D2 never leaves a rate of 0, here it rises")
    return _node("cosine", **arguments)


READERS: dict[str, Callable[[Settings, int], Node]] = {
    "StepDecay": _step,
    "ExponentialDecay": _exponential,
    "InvTDecay": _inverse_time,
    "InvDecay": _inverse,
    "PolyDecay": _polynomial,
    "CosineDecay": _cosine,
}


def _step_size(settings: Settings, iteration_size: int) -> tuple[int, float]:
    """Return LearningRateStepSize in samples and in epochs."""
    size = settings.unsigned("LearningRateStepSize", 1)
    if size == 0:
        raise settings.wrong("LearningRateStepSize", "1 or more")
    samples = settings.pace.samples(iteration_size)
    return size, settings.epochs("LearningRateStepSize", size, samples)


def _count_goes_on(settings: Settings, iteration_size: int) -> None:
    """Note that N2D2 stops to count updates, after which its rate stays."""
    updates = settings.unsigned("MaxIterations", 0)
    if updates:
        epochs = float(Fraction(updates) / settings.pace.updates(iteration_size))
        settings.note(
            "MaxIterations",
            f"N2D2's rate stays as it is from update {updates} on, after {epochs:.4g} epochs; here "
            "it goes on changing",
        )


def _node(function: str, **arguments: float | None) -> Node:
    target = f"qatlab.training.lr_policy.{function}"
    return {"_target_": target, "_partial_": True, **arguments}
