from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def assert_inputs_are_quantized() -> Callable[[nn.Module, Tensor, int, str], None]:
    return _assert_inputs_are_quantized


def _assert_inputs_are_quantized(
    model: nn.Module, images: Tensor, n_levels: int, first: str
) -> None:
    """Look at what each weight layer but the first reads.

    Channels are looked at one by one: branches that are concatenated have grids of their own.
    """
    seen: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].detach())
            )
    with torch.no_grad():
        model(images)
    assert seen.pop(first).unique().numel() > n_levels
    assert any(x.unique().numel() > 1 for x in seen.values())  # not all clipped, or all zero
    for name, x in seen.items():
        most = max(channel.unique().numel() for channel in x.unbind(1))
        assert most <= n_levels, f"{name} reads {most} values"
