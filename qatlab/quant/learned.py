"""Quantizers that learn a step or a clip value, and those of them that stand at a site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from qatlab.errors import QuantRuleError, TrainingError, wrong
from qatlab.quant.dispatch import block_zero_gradient, fake_quantize_fused
from qatlab.quant.functional import scale_gradient, with_power_of_two
from qatlab.quant.grid import Grid
from qatlab.quant.normed import (
    NOTHING,
    activate_and_quantize,
    in_kernel,
    norm_and_quantize,
)
from qatlab.quant.ops import clip_range
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import (
    GridSettings,
    Quantizer,
    check_choice,
    check_switch,
    is_number,
    meaning,
)
from qatlab.quant.rectify import rectify
from qatlab.quant.starts import STARTS, start_parameter

SHARED = "shared/"  # in the extra state of quantizers


class Levels(Protocol):
    """What makes the grid of a method."""

    def __call__(self, n_steps: int, signed: bool) -> Grid: ...


def given_start(name: str, value: float | str) -> float | None:
    """Return a starting value that was given as a number, or None for ``auto``.

    Raises:
        QuantRuleError: for anything else.
    """
    if value == "auto":
        return None
    if not (is_number(value) and 0 < float(value) < math.inf):
        raise wrong(name, value, "auto, a number above 0", kind=QuantRuleError)
    return float(value)


def check_ewgs(ewgs: float) -> float:
    """Return ``ewgs``, or raise a QuantRuleError unless it is a number of at least 0."""
    if not (is_number(ewgs) and 0 <= ewgs < math.inf):
        raise wrong("ewgs", ewgs, "a number of at least 0", kind=QuantRuleError)
    return float(ewgs)


def share_step(quantizers: Sequence[LearnedQuantizer]) -> None:
    """Give several quantizers one step to learn, whatever their bits: the parameter of the first.

    They start with the largest of the steps that each would start with.

    Raises:
        QuantRuleError: if these learn different things.
    """
    first, *others = quantizers
    parts = first.grid.divisor
    for other in others:
        if type(other) is not type(first):
            names = " and ".join(f"{q.layer} ({type(q).__name__})" for q in (first, other))
            raise QuantRuleError(f"{names} cannot have one step")
        setattr(other, other.learned, first.parameter)
    for quantizer in quantizers:
        quantizer._sharing, quantizer._parts = tuple(quantizers), parts
        quantizer._make_grid()


class LearnedSettings(GridSettings, total=False):
    """Arguments of every quantizer that learns, see :class:`LearnedQuantizer`."""

    start: str
    percentile: float
    ewgs: float
    power_of_two: bool


class LearnedQuantizer(Quantizer):
    """A quantizer that learns a step or a clip value, which can start from what it quantizes.

    It starts at ``qatlab.quant.start_quantizers`` or, without it, at the first tensor that is
    quantized after weights were loaded; a checkpoint of a started one brings its values. Those of
    activations never start from the values of an evaluation.

    Args:
        size: starting step or clip value in the units of the values, or ``auto``: of weights taken
            from these, of activations from the first batches that are to be quantized.
        signed: whether values can be negative.
        start: for ``auto``, see :func:`~qatlab.quant.starts.start_parameter`; left out, it is that
            of the method.
        percentile: for ``start: percentile``, the share of values, in percent, left unclipped.
        ewgs: delta of :func:`~qatlab.quant.grid.fake_quantize`.
        power_of_two: round the step to a power of two.
        grid_settings: see :class:`~qatlab.quant.quantizer.Quantizer`.

    Attributes:
        learned: name of the learned step or clip value: of the parameter, and of its argument.
        levels: makes the grid of the method for ``n_steps`` and ``signed``.
        starts: the values of ``start`` that it knows.
        default_start: the one that the method takes.
        per_channel: whether each output channel has a parameter of its own.
        grid: its levels.
        initialized: whether it has started; kept in checkpoints.
        given: the starting value that the user gave, None to take it from the values.
    """

    learned: ClassVar[str]
    levels: ClassVar[Levels]
    starts: ClassVar[tuple[str, ...]] = STARTS
    default_start: ClassVar[str]
    per_channel: bool = False
    initialized: Tensor

    def __init__(
        self,
        *,
        size: float | str,
        signed: bool,
        start: str = "",
        percentile: float = 99.9,
        ewgs: float = 0.0,
        power_of_two: bool = False,
        **grid_settings: Unpack[GridSettings],
    ) -> None:
        super().__init__(**grid_settings)
        self.start = self.default_start if start == "" else start
        check_choice("start", self.start, self.starts)
        if not (is_number(percentile) and 0 < percentile <= 100):
            raise wrong("percentile", percentile, "a number in (0, 100]", kind=QuantRuleError)
        self.percentile = percentile
        self.ewgs = check_ewgs(ewgs)
        check_switch("power_of_two", power_of_two)
        self.power_of_two = power_of_two
        self.given = given_start(self.learned, size)
        self.signed = signed
        self.grid = self.levels(self.n_steps, signed)
        first = torch.tensor(1.0 if self.given is None else self.given)
        self.register_parameter(self.learned, nn.Parameter(first))
        self.register_buffer("initialized", torch.tensor(False))
        self._started = False  # what the buffer says: on a GPU, reading it would make a step wait
        self._sharing: tuple[LearnedQuantizer, ...] = ()  # no submodules of this one
        self._parts = 1.0  # of what is learned, that the shared step is one of

    @property
    def parameter(self) -> nn.Parameter:
        """The learned step or clip value."""
        parameter: nn.Parameter = getattr(self, self.learned)
        return parameter

    @property
    def size(self) -> Tensor:
        """What its grid is made of: the learned step or clip value, or that of a power of two.

        While bits are learned, a clip value is the same at any width, and a step is that of its own
        grid times ``sqrt(q_max of that / q_max)``, as LSQ's starts are ``2 mean|v| / sqrt(q_max)``:
        the highest level of 4 bits would, at 2, round most values to 0. The gradient is scaled so
        that a step is changed, in proportion to its length, as much as one that is learned at that
        width.
        """
        # Divided once for all that share it: their steps are equal to the bit.
        size = self.parameter if self._parts == 1 else self.parameter / self._parts
        if self.width is not None and (longer := self._longer(self.n_steps)) != 1:
            size = scale_gradient(size * longer, longer**-2)
        return with_power_of_two(size, self.grid.divisor) if self.power_of_two else size

    @property
    def shown(self) -> Tensor:
        """The learned step or clip value as the method has it, where a step is shared, too."""
        return self.size * (self.levels(self.n_steps, self.signed).divisor / self.grid.divisor)

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        facts = super().describe()
        if self.power_of_two:
            facts["power_of_two"] = True
        if self._sharing:
            facts["step_of"] = self._sharing[0].layer
        return facts

    def get_extra_state(self) -> str:
        """Return phase, class and steps as plain text, and ``power_of_two`` where steps are.

        And ``shared/15`` where the step is that of others, too, a fifteenth of what is learned.
        """
        powers = " power_of_two" if self.power_of_two else ""
        shared = f" {SHARED}{self._parts:g}" if self._sharing else ""
        return f"{super().get_extra_state()}{powers}{shared}"

    def understands(self, state: str) -> bool:
        """Tell whether what a quantizer of that extra state has learned means the same here."""
        if self._sharing or SHARED in state:
            return meaning(state)[1:] == meaning(self.get_extra_state())[1:]
        return super().understands(state)

    def widen(self, bits: int | None) -> None:
        """Work with at least so many bits; what means something else with these starts anew."""
        before = self.n_steps
        super().widen(bits)
        if self.n_steps != before and (self._sharing or not self.any_steps):
            self.initialized.fill_(False)
            self._started = False

    def work_with(self, n_steps: int) -> None:
        """Work with a grid of so many steps; what it has learned stays."""
        super().work_with(n_steps)
        self._make_grid()

    @torch.no_grad()
    def settle(self, n_steps: int) -> None:
        """Have a grid of so many steps from now on, with the step that it had at that width."""
        self.parameter.mul_(self._longer(n_steps))
        super().settle(n_steps)

    def _longer(self, n_steps: int) -> float:
        """Return by what to multiply the parameter of its own grid for one of so many steps."""
        if self.any_steps:
            return 1.0
        own, grid = (self.levels(steps, self.signed) for steps in (self.own_steps, n_steps))
        return math.sqrt(own.q_max / grid.q_max)

    def _make_grid(self) -> None:
        grid = self.levels(self.n_steps, self.signed)
        self.grid = grid._replace(divisor=1.0) if self._sharing else grid

    @property
    def learned_offset(self) -> Tensor | None:
        """The learned offset of a method that has one."""
        return None

    def starting_values(self, values: Tensor) -> Tensor:
        """Return what the parameters would start with if ``values`` were all they quantize."""
        if self.given is not None:
            # With more steps for a while: the range that it means with its own.
            own = self.levels(self.own_steps, self.signed)
            longer = own.q_max / own.divisor * self.grid.divisor / self.grid.q_max
            return torch.full_like(self.parameter, self.given * longer)
        return start_parameter(values, self.grid, self.start, self.percentile, self.per_channel)

    def set_start(self, start: Tensor) -> None:
        """Set the parameters to what :meth:`starting_values` returned."""
        self.set_size(start)

    def set_size(self, size: Tensor) -> None:
        """Set the learned step or clip value; of those that share one, the largest step stays."""
        size = size * self._parts
        if any(not other.needs_start for other in self._sharing if other is not self):
            size = torch.maximum(size, self.parameter.abs())
        self.parameter.copy_(size)

    @property
    def needs_start(self) -> bool:
        """Whether neither a checkpoint nor an earlier start has brought values."""
        if not self._started:
            self._started = bool(self.initialized)
        return not self._started

    @torch.no_grad()
    def begin(self, start: Tensor) -> None:
        """Start with ``start``, or a mean of several.

        Raises:
            TrainingError: for values that are not finite, or a step of 0.
        """
        if not (start.isfinite().all() and start.ravel()[0] > 0):
            raise TrainingError(
                f"{self.layer}: no starting {self.learned} can be taken from the values it "
                f"quantizes ({start.ravel()[0].item()}); set {self.learned} to a number"
            )
        self.set_start(start)
        self.initialized.fill_(True)
        self._started = True

    def begin_with(self, values: Tensor) -> None:
        """Start from ``values`` if nothing has started it yet."""
        if self.needs_start:
            with torch.no_grad():
                self.begin(self.starting_values(values.detach()))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._started = False


class SiteSettings(LearnedSettings, total=False):
    """Arguments of every quantizer at a site, see :class:`ActivationQuantizer`."""

    signed: bool


class ActivationQuantizer(LearnedQuantizer):
    """Quantizer at a site: it replaces or follows the activation function there.

    Args:
        activation: the float activation function that stands at this site.
        size: see :class:`LearnedQuantizer`.
        signed: with levels below zero; set by ``quantize`` where values can be negative.
        dead_zeros: see :func:`~qatlab.quant.dispatch.block_zero_gradient`.
        settings: see :class:`LearnedQuantizer`.
    """

    def __init__(
        self,
        activation: nn.Module,
        *,
        size: float | str,
        signed: bool = False,
        dead_zeros: bool = False,
        **settings: Unpack[LearnedSettings],
    ) -> None:
        super().__init__(size=size, signed=signed, **settings)
        if signed and self.n_steps == 1:
            raise QuantRuleError(
                "a signed site has no levels at 1 bit: give it 2 bits or more, or n_steps=2"
            )
        self.activation = activation
        check_switch("dead_zeros", dead_zeros)
        self.dead_zeros = dead_zeros
        self._norm: tuple[()] | tuple[nn.BatchNorm2d] = ()
        self._observed: list[Tensor] | None = None

    @property
    def clips(self) -> bool:
        """Whether the quantizer takes the place of the activation function, not only follows it."""
        ends = clip_range(self.activation)
        return self.grid.q_min == 0 and ends is not None and ends[0] == 0

    def gradient_scale(self, x: Tensor) -> float:
        """Return the factor on the gradient of the parameter for activations ``(N, ...)``."""
        return 1.0

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {**super().describe(), "signed": self.signed}

    def clamp_facts(self) -> tuple[Any, ...]:
        """Return nothing: activations are as they are until the quantize phase."""
        return ()

    @property
    def norm(self) -> nn.BatchNorm2d | None:
        """The batch norm that it computes in front of this site."""
        return self._norm[0] if self._norm else None

    @property
    def only_quantizes(self) -> bool:
        """Whether it stands behind a batch norm and in place of no activation function."""
        return self.norm is not None and isinstance(self.activation, nn.Identity)

    def absorb(self, norm: nn.BatchNorm2d) -> bool:
        """Compute ``norm`` in front of this site from now on; False if something is in between.

        The norm stays registered where it is in the network.
        """
        if self.clips or in_kernel(self.activation):
            self._norm = (norm,)  # in a tuple: not a submodule of this one, too
        return bool(self._norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations, quantized in the quantize phase; any shape ``(N, ...)``."""
        dead_zeros = self.dead_zeros and torch.is_grad_enabled()
        if (norm := self.norm) is not None:
            quantizes = self.phase is Phase.QUANTIZE and self._observed is None
            # Two widths read what the norm makes once.
            if quantizes and not dead_zeros and not self.needs_start and self.width is None:
                between = NOTHING if self.clips else self.activation
                return norm_and_quantize(x, norm, self.size, self.grid, *self._settings(x), between)
            x = norm(x)
        if self._observed is not None:
            x = self.activation(x)
            self._observed.append(self.starting_values(x.detach()))
            return x
        if self.phase is not Phase.QUANTIZE:
            result: Tensor = self.activation(x)  # the clamp phase shapes weights only
            return result
        if self.needs_start:
            self._begin_unobserved(x)
        return self.at_width(lambda: self._quantized(x, dead_zeros))

    def _settings(self, x: Tensor) -> tuple[float, Tensor | None, float]:
        return self.gradient_scale(x), self.learned_offset, self.ewgs

    def _quantized(self, x: Tensor, dead_zeros: bool) -> Tensor:
        settings = self._settings(x)
        plain = dead_zeros or isinstance(self.activation, nn.Identity)
        if in_kernel(self.activation) and not plain:
            return activate_and_quantize(x, self.activation, self.size, self.grid, *settings)
        if not self.clips:
            x = rectify(x, self.activation, self.grid.near(self.size.detach()))
        if dead_zeros:
            x = block_zero_gradient(x, self.size, self.grid)
        return fake_quantize_fused(x, self.size, self.grid, *settings)

    def _begin_unobserved(self, x: Tensor) -> None:
        """Start from the first tensor that is quantized, which has to be one of a training."""
        if self._sharing:
            names = ", ".join(other.layer for other in self._sharing)
            raise TrainingError(f"{names} share a step: start them with start_quantizers()")
        if self.given is None and not self.training:
            raise TrainingError(
                f"{self.layer}: {self.learned} is not initialized, neither by training nor by "
                f"loaded weights; load weights that have it, or set {self.learned} to a number"
            )
        self.begin_with(self.activation(x))

    def observe(self) -> bool:
        """Start to watch the float activations; False if no starting value is needed from them."""
        if self.given is not None:
            self.begin_with(self.parameter)  # of which it takes the shape only
        self._observed = [] if self.needs_start else None
        return self._observed is not None

    def begin_observed(self) -> None:
        """Start with the mean over all that was observed."""
        observed, self._observed = self._observed, None
        if self.needs_start:
            self.begin(torch.stack(observed).mean(0) if observed else torch.tensor(0.0))

    def float_values(self, x: Tensor) -> Tensor:
        """Return, in float, what is put on the grid when :meth:`forward` gets ``x``."""
        if self.norm is not None:
            x = self.norm(x)
        # Not always self.activation: in the place of a ReLU6 the grid may end above 6.
        values: Tensor = x.relu() if self.clips else self.activation(x)
        return values


class ClipActivation(ActivationQuantizer):
    """Activation quantizer with one learned clip value; the methods differ in their grid.

    Args:
        activation: the float activation function that stands at this site.
        alpha: starting clip value in the units of the activations, or ``auto``.
        dead_zeros: see :func:`~qatlab.quant.dispatch.block_zero_gradient`.
        settings: see :class:`LearnedQuantizer`; ``signed`` clips to [-alpha, alpha].
    """

    learned = "alpha"
    default_start = "percentile"
    any_steps = True
    alpha: nn.Parameter

    def __init__(
        self,
        activation: nn.Module,
        *,
        alpha: float | str = "auto",
        dead_zeros: bool = False,
        **settings: Unpack[SiteSettings],
    ) -> None:
        super().__init__(activation, size=alpha, dead_zeros=dead_zeros, **settings)
