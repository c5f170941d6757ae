"""Several processes on one optimiser step: who does what, and how their parts add up.

With one process everything here is the identity, so the trainer has one code path. The processes are those of
``torch.distributed``: started by ``torchrun`` and brought together by ``joined``, or by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prefine.errors import RunStopped
from prefine.place import place

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for one that works alone (a judge may take hours). One that dies is noticed at once."""


@dataclass
class _State:
    control: Any = None
    """The group for small numbers and long waits; None: the default group is for everything."""
    alone: bool = False


_STATE = _State()


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """The processes that ``torchrun`` started, as one group: gloo, and nccl between GPUs.

    Does nothing with one process, or where somebody else has made a group. After a failure the group is not
    taken down in order, since the others may be anywhere: this process ends, and they notice.
    """
    here = place()
    if here.size == 1 or dist.is_initialized():
        yield
        return
    on_gpus = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(here.local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    _STATE.control = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise RunStopped(
                f"process {here.rank} of {here.size} lost the others: one of them has ended or cannot be reached",
                remedy="see what it said; run the same command again: it goes on where it was",
            ) from error
        raise
    _STATE.control = None
    dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process is by itself: what it does must not wait for the others."""
    before, _STATE.alone = _STATE.alone, True
    try:
        yield
    finally:
        _STATE.alone = before


def together() -> bool:
    """Are there several processes?"""
    return not _STATE.alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


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
    dist.all_reduce(there, group=_STATE.control)
    return there.tolist()


def highest(number: int) -> int:
    """The largest of the processes' numbers, in every process."""
    if not together():
        return number
    there = torch.tensor([number], dtype=torch.int64, device=_device())
    dist.all_reduce(there, op=dist.ReduceOp.MAX, group=_STATE.control)
    return int(there)


def first(number: int) -> int:
    """The first process's number, in every process."""
    if not together():
        return number
    there = torch.tensor([number], dtype=torch.int64, device=_device())
    dist.broadcast(there, src=0, group=_STATE.control)
    return int(there)


def first_text(text: str) -> str:
    """The first process's text, in every process."""
    if not together():
        return text
    data = text.encode() if rank() == 0 else bytes(first(0))
    if rank() == 0:
        first(len(data))
    there = torch.tensor(list(data), dtype=torch.uint8, device=_device())
    dist.broadcast(there, src=0, group=_STATE.control)
    return bytes(there.tolist()).decode()


def gathered(value: T) -> list[T]:
    """Every process's value, in the first; nothing in the others. Between the processes of one run only."""
    if not together():
        return [value]
    values: list[Any] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(value, values, dst=0, group=_STATE.control)
    return values or []


def barrier() -> None:
    """Nobody goes on before all are here."""
    summed([0.0])


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
    if not together() or not parameters:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=_device())
    dist.all_reduce(used, op=dist.ReduceOp.MAX, group=_STATE.control)
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if is_used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def _device() -> torch.device:
    """Where small numbers are sent from."""
    return torch.device("cuda" if _STATE.control is None and dist.get_backend() == "nccl" else "cpu")
