"""A batch norm over two processes is one over both of their batches."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from qatlab.training.sync_norm import SyncBatchNorm, synchronise_norms

forks = multiprocessing.get_context("forkserver")


def network(momentum: float | None) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=momentum)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(36, 2))


def images() -> torch.Tensor:
    return torch.randn(7, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()


def one_step(model: nn.Module, part: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return gradients of the summed loss, and the statistics."""
    model(part).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {**gradients, **dict(model.named_buffers())}  # type: ignore[dict-item]


def _of_rank(rank: int, meeting: Path, momentum: float | None, answer: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    model = network(momentum).double()
    synchronise_norms(model)
    part = images()[:3] if rank == 0 else images()[3:]  # 3 and 4 images
    found = one_step(model, part)
    for name, parameter in model.named_parameters():
        distributed.all_reduce(found[name])
        assert parameter.grad is not None
    answer.send({name: value.tolist() for name, value in found.items()})
    distributed.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_gradients_and_statistics_are_those_of_both_batches(
    momentum: float | None, tmp_path: Path
) -> None:
    pipes = [forks.Pipe() for _ in range(2)]
    processes = [
        forks.Process(target=_of_rank, args=(rank, tmp_path / "meeting", momentum, pipes[rank][1]))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    expected = one_step(network(momentum).double(), images())
    for pipe, process in zip(pipes, processes, strict=True):
        assert pipe[0].poll(60)
        found = pipe[0].recv()
        process.join()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            obtained = torch.tensor(found[name], dtype=value.dtype)
            assert torch.allclose(obtained, value, rtol=0, atol=1e-9), name


def halves() -> torch.Tensor:
    values = torch.randn(6, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    return (values + 100).bfloat16()


def _halves_of_rank(rank: int, meeting: Path, answer: Any) -> None:
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    norm = SyncBatchNorm(2, momentum=1.0)
    result = norm(halves()[3 * rank :][:3])
    answer.send((str(result.dtype), norm.running_mean.tolist(), norm.running_var.tolist()))
    distributed.destroy_process_group()


def test_halves_are_summed_in_float32(tmp_path: Path) -> None:
    # 1,536 values near 100: their sum has 18 bits, a bfloat16 keeps 8 of them.
    pipes = [forks.Pipe() for _ in range(2)]
    for rank, (_, answer) in enumerate(pipes):
        forks.Process(target=_halves_of_rank, args=(rank, tmp_path / "meeting", answer)).start()
    expected = nn.BatchNorm2d(2, momentum=1.0)
    expected(halves().float())
    for pipe, _ in pipes:
        assert pipe.poll(60)
        dtype, mean, variance = pipe.recv()
        assert dtype == "torch.bfloat16"
        assert mean == pytest.approx(expected.running_mean.tolist(), rel=1e-6)
        assert variance == pytest.approx(expected.running_var.tolist(), rel=1e-4)


def test_alone_it_is_a_batch_norm() -> None:
    model = network(0.1).double()
    other = copy.deepcopy(model)
    synchronise_norms(other)
    assert type(other[1]) is SyncBatchNorm  # type: ignore[index]
    expected, found = one_step(model, images()), one_step(other, images())
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    model.eval()
    other.eval()
    assert torch.equal(model(images()), other(images()))


def test_parameters_statistics_and_settings_stay() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, eps=0.1, affine=False), nn.BatchNorm3d(2)).eval()
    old = list(model)
    synchronise_norms(model)
    assert model[0].eps == 0.1
    assert model[0].weight is None
    assert model[1].weight is old[1].weight
    assert model[1].running_var is old[1].running_var
    assert not model[0].training
    assert list(model.state_dict()) == list(nn.Sequential(*old).state_dict())
