"""Optimisers and learning-rate schedules, each by name.

A schedule is a pure function of the step, so there is no scheduler state to save: step s of S (counted from
0) has the learning rate ``lr * schedule(s, S, warmup)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from prefine.engine.settings import TrainSettings

Groups = list[dict[str, Any]]

OPTIMIZERS: Mapping[str, Callable[[Groups, TrainSettings], Optimizer]] = {
    "adamw": lambda groups, s: torch.optim.AdamW(groups, lr=s.lr, betas=s.betas, fused=_can_fuse(groups)),
    "adam": lambda groups, s: torch.optim.Adam(groups, lr=s.lr, betas=s.betas, fused=_can_fuse(groups)),
    "rmsprop": lambda groups, s: torch.optim.RMSprop(groups, lr=s.lr, momentum=s.momentum),
    "sgd": lambda groups, s: torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum),
    "adafactor": lambda groups, s: torch.optim.Adafactor(groups, lr=s.lr),
}


def _can_fuse(groups: Groups) -> bool:
    """Whether Adam can update every parameter in one pass over its memory instead of about ten.

    Parameters that are parts of a whole (sharded) keep the plain way, which knows how to be distributed.
    """
    parameters = [p for group in groups for p in group["params"]]
    return all(type(p) is nn.Parameter and p.device.type in ("cpu", "cuda") for p in parameters)


def parameter_groups(parameters: Iterable[nn.Parameter], settings: TrainSettings, lr: float) -> Groups:
    """Two groups at a base learning rate: matrices, which decay, and vectors (norms, biases), which do not."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = (
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay, "base_lr": lr},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0, "base_lr": lr},
    )
    return [group for group in groups if group["params"]]


def optimizer_for(groups: Groups, settings: TrainSettings) -> Optimizer:
    return OPTIMIZERS[settings.optimizer](groups, settings)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Every group's base learning rate times the schedule's factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def warmup_steps(steps: int, share: float) -> int:
    return math.ceil(share * steps - 1e-9)


def factor(name: str, step: int, steps: int, warmup: float) -> float:
    """The learning rate of a step as a share of the full one.

    With W warm-up steps: (s + 1) / W while s < W, so no step is wasted at 0 and the last one has it all; then
    the schedule's own curve of p = (s - W) / (S - W), which stays below 1, so the last step does something.

    >>> [factor("linear", s, 6, 1 / 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    rising = warmup_steps(steps, warmup)
    if step < rising:
        return (step + 1) / rising
    return SCHEDULES[name](step - rising, max(steps - rising, 1))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "constant": lambda s, total: 1.0,
    "linear": lambda s, total: 1.0 - s / total,
    "cosine": lambda s, total: 0.5 * (1.0 + math.cos(math.pi * s / total)),
    "inverse-sqrt": lambda s, total: 1.0 / math.sqrt(1.0 + s),
}
"""(steps after warm-up, how many there are) -> share of the full learning rate."""
