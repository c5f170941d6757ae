"""Several processes on one optimiser step: who does what, and how their parts add up.

With one process everything here is the identity, so the trainer has one code path. The processes are those of
``torch.distributed``, started by ``torchrun`` or by the caller; nothing here starts any.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def together() -> bool:
    """Are there several processes?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, 0 for the first (the one that writes)."""
    return dist.get_rank() if together() else 0


def size() -> int:
    return dist.get_world_size() if together() else 1


def share(items: Sequence[int], *, whole: bool = False) -> list[int]:
    """This process's part of a step. ``whole``: it cannot be cut, so the first process does all of it."""
    if whole:
        return list(items) if rank() == 0 else []
    return list(items[rank() :: size()])


def summed(numbers: Sequence[float]) -> list[float]:
    """Each number added up over the processes, in float64."""
    if not together():
        return list(numbers)
    there = torch.tensor(numbers, dtype=torch.float64, device=_device())
    dist.all_reduce(there)
    return there.tolist()


def first(number: int) -> int:
    """The first process's number, in every process."""
    if not together():
        return number
    there = torch.tensor([number], dtype=torch.int64, device=_device())
    dist.broadcast(there, src=0)
    return int(there)


def same_start(module: nn.Module) -> None:
    """Give every process the first one's parameters and buffers."""
    if together():
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Add up the gradients over the processes.

    A parameter that no process used keeps no gradient at all, as with one process: a gradient of zeros would
    let weight decay and momentum move it.
    """
    if not together():
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=_device())
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if is_used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
