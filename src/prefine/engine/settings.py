"""How to train: the settings of one training run, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from prefine.engine.optim import OPTIMIZERS, SCHEDULES
from prefine.errors import InputError
from prefine.policies.base import Limits

PRECISIONS = ("auto", "float32", "bfloat16")
SHARDS = ("auto", "whole", "sharded")
LAYOUTS = ("auto", "tree", "padded")


@dataclass(frozen=True)
class TrainSettings:
    """What ``train`` needs to know besides the policy, the contrasts and the objective.

    >>> TrainSettings(epochs=1.5, batch_size=4).steps(10)
    5
    """

    lr: float = 1e-5
    """Learning rate at its highest. Unless given, `prefine run` takes 1e-6 on your own model (1e-5 with
    --lora-rank) and 1e-3 on the worlds' tiny ones."""
    epochs: float = 1.0
    """Passes over the contrasts; 1.5 stops in the middle of the second."""
    max_steps: int | None = None
    """Optimiser steps; overrides ``epochs``."""
    batch_size: int = 32
    """Contrasts an optimiser step, over all processes."""
    tokens_per_microbatch: int | None = 2048
    """Tokens a forward may have (padding counts, a shared prefix counts once where it is shared); decides memory
    and speed, never the loss. 2,048 is best on a CPU; a GPU wants four to sixteen times as many. None: no cut."""
    layout: str = "auto"
    """How rows go through the model: tree (what several begin with is computed once), padded (each row whole), or auto,
    which takes trees where they save more than they cost. The same numbers, but for rounding."""
    optimizer: str = "adamw"
    """adamw, adam, rmsprop, sgd or adafactor."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam and AdamW."""
    momentum: float = 0.0
    """Of ``sgd`` and ``rmsprop``."""
    weight_decay: float = 0.0
    """On matrices only; never on biases and norms."""
    schedule: str = "cosine"
    """Of the learning rate after warm-up: constant, linear, cosine or inverse-sqrt."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises to ``lr``."""
    clip: float | None = 1.0
    """Largest gradient norm; None: no clipping."""
    precision: str = "auto"
    """Of the forward: float32; "bfloat16" is autocast with weights kept as they are; "auto" is that on a GPU
    that has it."""
    gradient_checkpointing: bool = False
    """Less memory for more time; the numbers stay the same."""
    shard: str = "auto"
    """How the weights lie when several processes train: whole in each, sharded (FSDP: weights, gradients and
    optimiser state divided over them), or auto: sharded on GPUs, whole on CPUs."""
    dropout: bool = False
    """Off unless asked: a policy with dropout does not agree with its own reference at step 0."""
    seed: int = 0
    shuffle: bool = True
    """A new order each epoch, decided by the seed; else as the contrasts come."""
    save_every: int = 50
    """Steps between checkpoints."""
    save_seconds: float | None = 300.0
    """Also a checkpoint when this long has passed since the last one."""
    log_every: int = 1
    """Steps between rows of metrics; a row is the mean over its steps."""
    max_length: int | None = None
    """Tokens a row may have, prompt and response together; what is over is cut."""
    max_prompt: int | None = None
    """Tokens a prompt may have; older ones are cut."""

    def __post_init__(self) -> None:
        if isinstance(self.betas, list):  # from YAML or JSON
            object.__setattr__(self, "betas", tuple(self.betas))
        for name, (is_good, wanted) in _CHECKS.items():
            value = getattr(self, name)
            if not is_good(value):
                raise InputError(f"training setting {name}={value!r} cannot be used", remedy=f"give {wanted}")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> TrainSettings:
        """From a mapping (a recipe's keywords, a config file); an unknown name is an InputError."""
        names = [f.name for f in fields(TrainSettings)]
        for name in settings:
            if name not in names:
                close = get_close_matches(str(name), names, n=2, cutoff=0.6)
                hint = f"did you mean {' or '.join(close)}? " if close else ""
                raise InputError(
                    f"there is no training setting {name!r}", remedy=f"{hint}there are: {', '.join(names)}"
                )
        return TrainSettings(**settings)

    @property
    def limits(self) -> Limits:
        return Limits(max_length=self.max_length, max_prompt=self.max_prompt)

    def steps_per_epoch(self, contrasts: int) -> int:
        """The last batch of an epoch holds what is left; none is dropped."""
        return math.ceil(contrasts / self.batch_size)

    def steps(self, contrasts: int) -> int:
        """Optimiser steps for so many contrasts."""
        if self.max_steps is not None:
            return self.max_steps
        # the 1e-9 forgives 0.1 + 0.2 epochs
        return max(1, math.ceil(self.epochs * self.steps_per_epoch(contrasts) - 1e-9))

    def fingerprint(self) -> dict[str, Any]:
        """What the trained bits depend on: a checkpoint is only taken up again by the same."""
        free = {"save_every", "save_seconds", "shard", *({"layout"} if self.layout == "auto" else ())}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k not in free}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_betas(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_number(b) and 0 <= b < 1 for b in value)


Check = tuple[Callable[[Any], bool], str]

_POSITIVE: Check = (lambda v: _number(v) and v > 0, "a number above 0 (in YAML write 1.0e-5, not 1e-5)")
_COUNT: Check = (lambda v: _whole(v) and v > 0, "a whole number above 0")
_COUNT_OR_NONE: Check = (lambda v: v is None or (_whole(v) and v > 0), "a whole number above 0, or nothing")
_POSITIVE_OR_NONE: Check = (lambda v: v is None or (_number(v) and v > 0), "a number above 0, or nothing")
_NOT_NEGATIVE: Check = (lambda v: _number(v) and v >= 0, "a number, 0 or above")
_SHARE: Check = (lambda v: _number(v) and 0 <= v < 1, "a number from 0 to below 1")
_FLAG: Check = (lambda v: isinstance(v, bool), "true or false")


def _one_of(names: tuple[str, ...]) -> Check:
    return lambda v: isinstance(v, str) and v in names, f"one of {', '.join(names)}"


_CHECKS: Mapping[str, Check] = {
    "lr": _POSITIVE,
    "epochs": _POSITIVE,
    "max_steps": _COUNT_OR_NONE,
    "batch_size": _COUNT,
    "tokens_per_microbatch": _COUNT_OR_NONE,
    "layout": _one_of(LAYOUTS),
    "optimizer": _one_of(tuple(OPTIMIZERS)),
    "betas": (_is_betas, "two numbers from 0 to below 1"),
    "momentum": _SHARE,
    "weight_decay": _NOT_NEGATIVE,
    "schedule": _one_of(tuple(SCHEDULES)),
    "warmup": _SHARE,
    "clip": _POSITIVE_OR_NONE,
    "precision": _one_of(PRECISIONS),
    "gradient_checkpointing": _FLAG,
    "shard": _one_of(SHARDS),
    "dropout": _FLAG,
    "seed": (lambda v: _whole(v) and v >= 0, "a whole number, 0 or above"),
    "shuffle": _FLAG,
    "save_every": _COUNT,
    "save_seconds": _POSITIVE_OR_NONE,
    "log_every": _COUNT,
    "max_length": (lambda v: v is None or (_whole(v) and v > 1), "a whole number above 1, or nothing"),
    "max_prompt": _COUNT_OR_NONE,
}
