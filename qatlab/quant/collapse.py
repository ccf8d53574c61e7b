"""Finds quantizers that have collapsed: of all that they are given they make one value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qatlab.quant.grid import SMALLEST
from qatlab.quant.layers import WEIGHT_QUANTIZER, QuantConv2d, QuantLinear, quantized_weight
from qatlab.quant.learned import ActivationQuantizer, LearnedQuantizer
from qatlab.quant.phase import Phase
from qatlab.quant.quantizer import Quantizer

SAMPLED = 64  # values of an image or a channel
LINES = 5  # that a user reads; a collapsed quantizer may make others collapse


class CollapseWatch:
    """Looks at the quantizers of a network while it evaluates images.

    One that is found to be in use is not looked at again, so all this costs is a look at a few
    values of one image at each site, and of one channel of each layer's weights.

    Args:
        model: the network; quantizers that are in the quantize phase are watched.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        self._seen: list[_Seen] = []  # in an order that all processes share
        for name, module in model.named_modules():
            is_site = isinstance(module, ActivationQuantizer)
            quantizer = module if is_site else getattr(module, WEIGHT_QUANTIZER, None)
            if not isinstance(quantizer, Quantizer) or quantizer.phase is not Phase.QUANTIZE:
                continue
            seen = _Seen(quantizer, name, "puts out" if is_site else "quantizes its weights to")
            self._seen.append(seen)
            if is_site:
                seen.hook = module.register_forward_hook(partial(_look, seen))
            elif isinstance(module, (QuantConv2d, QuantLinear)) and module.weight.numel() > 1:
                seen.add(quantized_weight(module), partial(_masked, module))

    def end(self) -> dict[str, str]:
        """Stop looking; return what is wrong at each site and layer, "" where nothing is."""
        for seen in self._seen:
            seen.unhook()
        return {seen.name: seen.message() for seen in self._seen}


def warnings_of(collapsed: Iterable[str]) -> list[str]:
    """Return the lines that tell a user what is wrong with quantizers."""
    lines = [f"Warning: {words}." for words in collapsed]
    more = len(lines) - LINES
    return [*lines[:LINES], *([f"Warning: and {more} quantizers more."] if more > 0 else [])]


@dataclass
class _Seen:
    """What a quantizer was given and has made so far.

    Attributes:
        quantizer: it.
        name: of its site or layer.
        verb: of a sentence about its values.
        values: some of those that it has made: all, if they are no more than two.
        low: the smallest value that it was given.
        high: the largest one.
        hook: by which they are noted.
    """

    quantizer: Quantizer
    name: str
    verb: str
    values: set[float] = field(default_factory=set)
    low: float = math.inf
    high: float = -math.inf
    hook: RemovableHandle | None = None

    def unhook(self) -> None:
        """Note no more values."""
        if self.hook is not None:
            self.hook.remove()

    def add(self, made: Tensor, given: Callable[[], Tensor]) -> None:
        """Note values.

        Args:
            made: what it puts out, ``(N, ...)``.
            given: returns, in float, what it has made that of; asked only if it seems collapsed.
        """
        learns = isinstance(self.quantizer, LearnedQuantizer)
        enough = 3 if learns and self.quantizer.n_steps > 2 else 2  # a value between two others
        one = made[0].flatten()  # of nearly all quantizers a few values tell that they are fine
        self.values |= {*one[:: one.numel() // SAMPLED + 1].tolist()}
        if len(self.values) < enough:
            low, high = made.aminmax()
            between = torch.where(made < high, made, low).amax()
            self.values |= {low.item(), between.item(), high.item()}
        if len(self.values) >= enough:
            return self.unhook()
        low, high = given().aminmax()
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        return None

    def message(self) -> str:
        """Return what is wrong, "" if nothing is."""
        values = sorted(value + 0.0 for value in self.values)[:3]  # no -0
        learned, shown, clips_all = "", torch.ones(1), False
        if isinstance(self.quantizer, LearnedQuantizer):
            learned = self.quantizer.learned
            size, shown = (of.detach().abs() for of in (self.quantizer.size, self.quantizer.shown))
            if (smallest := size.min().item()) <= SMALLEST:
                return f"{self.name} cannot quantize: its {learned} is {smallest:.3g}"
            if len(values) == 2 and self.quantizer.n_steps > 2:
                grid = self.quantizer.grid
                steps = (values[1] - values[0]) / grid.step(size.max()).item()
                clips_all = steps > grid.q_max - grid.q_min - 0.5
        if len(values) != 1 and not clips_all:
            return ""
        made = " and ".join(f"{value:.3g}" for value in values)
        what = f"{'its two outermost levels' if clips_all else 'one value'} only, {made}"
        if self.low == self.high:
            return f"{self.name} {self.verb} {what}: its input is {self.low:.3g} only"
        because = f"; its {learned} is {shown.max().item():.3g}" if learned else ""
        of_what = f"of values from {self.low:.3g} to {self.high:.3g}"
        return f"{self.name} {self.verb} {what}, {of_what}{because}"


def _look(seen: _Seen, site: ActivationQuantizer, args: tuple[Tensor, ...], made: Tensor) -> None:
    """Note what a site puts out; its forward hook."""
    seen.add(made, lambda: site.float_values(args[0].clone()))  # which may compute in place


def _masked(layer: QuantConv2d | QuantLinear) -> Tensor:
    return layer.weight if layer.weight_mask is None else layer.weight * layer.weight_mask
