"""The base classes of all quantizers, and the bit widths they accept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qatlab.arguments import text
from qatlab.errors import QuantRuleError, TrainingError, did_you_mean
from qatlab.quant.eager import fake_quantize_eager, norm_and_quantize
from qatlab.quant.functional import Grid
from qatlab.quant.phase import Phase
from qatlab.quant.starts import STARTS

HIGHEST_BITS = 16  # float32 still holds every level and every product of two levels' indices


def steps_of(bits: int | None, n_steps: int | None) -> int:
    """Return the number of steps of a grid given as bit width or as steps.

    Args:
        bits: bit width, 1 to 16; the grid has ``2**bits`` levels.
        n_steps: steps between the lowest and the highest level, 1 to 65535 (ternary: 2).

    Raises:
        QuantRuleError: unless exactly one of the two is given, and within its range.
    """
    if (bits is None) == (n_steps is None):
        raise QuantRuleError(
            "give either bits or n_steps, and null for the other, not "
            f"bits={text(bits)} and n_steps={text(n_steps)}"
        )
    value, name, highest = (
        (bits, "bits", HIGHEST_BITS) if n_steps is None else (n_steps, "n_steps", 65535)
    )
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise QuantRuleError(f"{name}={value!r} is not a whole number from 1 to {highest}")
    return value if n_steps is not None else (1 << value) - 1


def check_choice(name: str, value: object, accepted: Sequence[str]) -> None:
    """Raise a QuantRuleError unless ``value`` is one of the accepted words."""
    if value not in accepted:
        hint = did_you_mean(str(value), accepted)
        raise QuantRuleError(f"{name}={value!r} is none of {', '.join(accepted)}.{hint}")


def check_switch(name: str, value: object) -> None:
    """Raise a QuantRuleError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise QuantRuleError(f"{name}={value!r} is neither true nor false")


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Quantizer(nn.Module):
    """Tensor in, fake-quantized tensor of the same shape out; owns its learned parameters.

    Attributes:
        method: what messages call it.
        clamps: whether it has a clamp phase of its own.
        phase: what :meth:`forward` does now; kept in checkpoints as plain text, so that a loaded
            model computes as it did when it was saved.
        n_steps: steps of the grid.
        layer: path of the layer or site, for error messages; set by ``quantize``.
    """

    method: ClassVar[str]
    clamps: ClassVar[bool] = False

    def __init__(self, bits: int | None, n_steps: int | None) -> None:
        super().__init__()
        self.phase = Phase.QUANTIZE
        self.n_steps = steps_of(bits, n_steps)
        self.layer = "?"

    @property
    def bits(self) -> int:
        """Bit width that holds all levels: ``ceil(log2(n_steps + 1))``."""
        return self.n_steps.bit_length()

    def fit(self, weight: Tensor) -> None:
        """Give the parameters the shape that these weights need."""

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {"method": type(self).__name__, "bits": self.bits, "n_steps": self.n_steps}

    def get_extra_state(self) -> str:
        """Return phase, class and steps as plain text, such as ``quantize SatWeight 15``."""
        return f"{self.phase.value} {type(self).__name__} {self.n_steps}"

    def set_extra_state(self, state: str) -> None:
        """Take the phase that :meth:`get_extra_state` saved."""
        self.phase = Phase(state.split()[0])

    def understands(self, state: str) -> bool:
        """Tell whether what a quantizer of that extra state has learned means the same here."""
        return state.split()[1:] == self.get_extra_state().split()[1:]

    def extra_repr(self) -> str:
        """Name the facts when the model is printed."""
        return ", ".join(f"{key}={value}" for key, value in self.describe().items())

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``."""
        raise NotImplementedError


class LearnedQuantizer(Quantizer):
    """A quantizer whose learned parameters can start from the values that it quantizes.

    They start at ``qatlab.quant.start_quantizers`` or, without it, at the first tensor that is
    quantized after weights were loaded; a checkpoint of a started one brings its values.

    Args:
        bits: see :func:`steps_of`.
        n_steps: likewise.
        start: how, see :func:`~qatlab.quant.starts.start_parameter`.
        percentile: of ``start: percentile``.

    Attributes:
        learned: name of the learned step or clip value, for messages.
        starts: the values of ``start`` that it knows.
        initialized: whether they have started; kept in checkpoints.
        given: the starting value that the user gave, None to take it from the values.
    """

    learned: ClassVar[str]
    starts: ClassVar[tuple[str, ...]] = STARTS
    initialized: Tensor
    given: float | None = None

    def __init__(
        self, bits: int | None, n_steps: int | None, start: str, percentile: float
    ) -> None:
        super().__init__(bits, n_steps)
        check_choice("start", start, self.starts)
        if not (is_number(percentile) and 0 < percentile <= 100):
            raise QuantRuleError(f"percentile={percentile!r} is not above 0 and at most 100")
        self.start = start
        self.percentile = percentile
        self.register_buffer("initialized", torch.tensor(False))
        self._started = False  # what the buffer says: on a GPU, reading it would make a step wait

    def starting_values(self, values: Tensor) -> Tensor:
        """Return what the parameters would start with if ``values`` were all they quantize."""
        raise NotImplementedError

    def set_start(self, start: Tensor) -> None:
        """Set the parameters to what :meth:`starting_values` returned."""
        raise NotImplementedError

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


class ActivationQuantizer(LearnedQuantizer):
    """Quantizer at a site: it replaces or follows the activation function there.

    Args:
        activation: the float activation function that stands at this site.
        bits: bit width, 1 to 16; or give ``n_steps``.
        n_steps: steps of the grid instead of ``bits``.
        start: see :class:`LearnedQuantizer`.
        percentile: likewise.
        signed: whether values can be negative.
        ewgs: delta of :func:`~qatlab.quant.functional.fake_quantize`.

    Attributes:
        grid: its levels.
    """

    def __init__(
        self,
        activation: nn.Module,
        bits: int | None,
        n_steps: int | None,
        start: str,
        percentile: float,
        signed: bool,
        ewgs: float,
    ) -> None:
        super().__init__(bits, n_steps, start, percentile)
        if signed and self.n_steps == 1:
            raise QuantRuleError(
                "a signed site has no levels at 1 bit: give it 2 bits or more, or n_steps=2"
            )
        self.activation = activation
        self.signed = signed
        self.grid = self.levels()
        self.ewgs = check_ewgs(ewgs)
        self._norm: tuple[()] | tuple[nn.BatchNorm2d] = ()
        self._observed: list[Tensor] | None = None

    def levels(self) -> Grid:
        """Return the grid of the method for ``n_steps`` and ``signed``."""
        raise NotImplementedError

    @property
    def parameter(self) -> Tensor:
        """The learned step or clip value."""
        raise NotImplementedError

    @property
    def learned_offset(self) -> Tensor | None:
        """The learned offset of a method that has one."""
        return None

    @property
    def clips(self) -> bool:
        """Whether the quantizer takes the place of the activation function, not only follows it."""
        return self.grid.q_min == 0 and isinstance(self.activation, (nn.ReLU, nn.ReLU6))

    def gradient_scale(self, x: Tensor) -> float:
        """Return the factor on the gradient of the parameter for activations ``(N, ...)``."""
        return 1.0

    def describe(self) -> dict[str, Any]:
        """Return the facts of this quantizer for ``layers.json``."""
        return {**super().describe(), "signed": self.signed}

    @property
    def only_quantizes(self) -> bool:
        """Whether it stands behind a batch norm and in place of no activation function."""
        return bool(self._norm) and isinstance(self.activation, nn.Identity)

    def absorb(self, norm: nn.BatchNorm2d) -> bool:
        """Compute ``norm`` in front of this site from now on; False if something is in between.

        The norm stays registered where it is in the network.
        """
        if self.clips or isinstance(self.activation, nn.Identity):
            self._norm = (norm,)  # in a tuple: not a submodule of this one, too
        return bool(self._norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations, quantized in the quantize phase; any shape ``(N, ...)``."""
        settings = (self.gradient_scale(x), self.learned_offset, self.ewgs)
        if self._norm:
            (norm,) = self._norm
            if self.phase is Phase.QUANTIZE and self._observed is None and not self.needs_start:
                return norm_and_quantize(x, norm, self.parameter, self.grid, *settings)
            x = norm(x)
        if self._observed is not None:
            x = self.activation(x)
            self._observed.append(self.starting_values(x.detach()))
            return x
        if self.phase is not Phase.QUANTIZE:
            result: Tensor = self.activation(x)  # the clamp phase shapes weights only
            return result
        if self.needs_start:
            self.begin_with(self.activation(x))
        if not self.clips:
            x = self.activation(x)
        return fake_quantize_eager(x, self.parameter, self.grid, *settings)

    def observe(self) -> bool:
        """Start to watch the float activations; False if no starting value is needed from them."""
        if self.given is not None:
            self.begin_with(self.parameter)  # which does not look at them
        self._observed = [] if self.needs_start else None
        return self._observed is not None

    def begin_observed(self) -> None:
        """Start with the mean over all that was observed."""
        observed, self._observed = self._observed, None
        if self.needs_start:
            self.begin(torch.stack(observed).mean(0) if observed else torch.tensor(0.0))

    def float_values(self, x: Tensor) -> Tensor:
        """Return, in float, what is put on the grid when :meth:`forward` gets ``x``."""
        if self._norm:
            x = self._norm[0](x)
        # Not always self.activation: in the place of a ReLU6 the grid may end above 6.
        values: Tensor = x.relu() if self.clips else self.activation(x)
        return values


def given_start(name: str, value: float | str) -> float | None:
    """Return a starting value that was given as a number, or None for ``auto``.

    Raises:
        QuantRuleError: for anything else.
    """
    if value == "auto":
        return None
    if not (is_number(value) and 0 < float(value) < math.inf):
        raise QuantRuleError(f"{name}={value!r} is neither a number above 0 nor 'auto'")
    return float(value)


def check_ewgs(ewgs: float) -> float:
    """Return ``ewgs``, or raise a QuantRuleError unless it is a number from 0 on."""
    if not (is_number(ewgs) and 0 <= ewgs < math.inf):
        raise QuantRuleError(f"ewgs={ewgs!r} is not a number from 0 on")
    return float(ewgs)


def checked_weight(quantizer: Quantizer, weight: Tensor, result: Tensor, fault: str) -> Tensor:
    """Return ``result``, or raise a TrainingError if a maximum or a variance has made it NaN."""
    # One number tells: NaN spreads to all weights through the statistics. On a GPU reading it
    # would make every step wait; there the loss is watched instead.
    looked_at = result.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not math.isfinite(result.detach()[(0,) * result.ndim].item()):
        if not weight.isfinite().all():
            fault = "its weights are not finite; lower the learning rate"
        elif not weight.any():
            name = quantizer.method
            fault = f"all its weights are 0, which {name} cannot scale by their maximum; "
            fault += "initialise them"
        raise TrainingError(f"{quantizer.layer}: {fault}")
    return result


def quantizers(model: nn.Module) -> list[Quantizer]:
    """Return all quantizers of a model in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Quantizer)]


def set_phase(model: nn.Module, phase: Phase) -> None:
    """Make every quantizer of a model work in ``phase``."""
    for quantizer in quantizers(model):
        quantizer.phase = phase
