"""Batch norms whose statistics are those of all processes that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import get_world_size, is_available, is_initialized
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """A batch norm over the batches of all processes.

    ``nn.SyncBatchNorm`` refuses to work on a CPU. This one sums over the processes what every
    one of them has, first the values and then the squares of their distances from the mean;
    gradients go the same way back.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, ...)``; N may differ between processes.

        Halves are summed in float32, as batch norms do, and the result is of halves again.
        """
        several = is_available() and is_initialized() and get_world_size() > 1
        if not (self.training and several):
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        mean, variance, count = _statistics(x)
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach(), count.item())
        shape = (1, -1, *(1,) * (x.ndim - 2))
        result = (x - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: float) -> None:
        """Move the running statistics, as a batch norm does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:  # the mean over all batches
            share = 1.0 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


def synchronise_norms(model: nn.Module) -> None:
    """Replace all batch norms of a model; parameters and statistics are shared with the old ones.

    To be called before quantizers are put in: those absorb the norms that they find.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, _synchronised(child))


def _synchronised(norm: _BatchNorm) -> SyncBatchNorm:
    new = SyncBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(new, name, buffer)
    new.train(norm.training)
    return new


class _Sum(torch.autograd.Function):
    """The sum over all processes; each value's gradient is the sum of what they all make of it."""

    # torch's own, torch.distributed.nn.functional.all_reduce, is deprecated in favour of a module
    # that is not public.

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, ``(C,)``, and the number of values behind them."""
    channels = x.transpose(0, 1).flatten(1)
    local = channels.new_tensor([channels.shape[1]])
    total: Tensor = _Sum.apply(torch.cat([channels.sum(1), local]))
    count = total[-1].detach()
    mean = total[:-1] / count
    squares: Tensor = _Sum.apply((channels - mean[:, None]).square().sum(1))
    return mean, squares / count, count
