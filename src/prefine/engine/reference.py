"""What an objective compares the policy with: stored numbers, a live policy, or one that follows the policy.

``train(..., references={name: ...})`` takes, for every name an objective reads,

- stored log-probabilities (``Arrays``): computed beforehand, nothing to pay during training;
- a live policy: scored without gradient on every micro-batch, frozen;
- ``Moving(trailing(0.6, every=64))``: a copy of the policy as it starts (or of ``start``) that follows it,

      ref <- (1 - alpha) ref + alpha policy     after every ``every`` steps

  (Gorbatovski et al. 2024, arXiv:2404.09656: alpha = 1 is their hard update, alpha < 1 their soft one; alpha
  small and every = 1 is an exponential moving average).

A moving reference has no model of its own: it keeps a copy of the weights that training changes (an adapter's
alone, where there is one) and lends them to the policy's own module while it is scored. Its weights are in the
trainer's checkpoints, so a run that was killed ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine import sharding
from prefine.engine.score import evaluating
from prefine.errors import InputError
from prefine.policies.base import Batch, Limits, Policy
from prefine.registry import look_up, make, parse
from prefine.slate import Contrast

Arrays = Sequence[Sequence[np.ndarray]]
"""contrast -> member -> log-probabilities of its response tokens."""


# -- how a reference follows


@dataclass(frozen=True)
class Following:
    """After every ``every`` optimiser steps ref <- (1 - alpha) ref + alpha policy; alpha = 0 stands still."""

    alpha: float = 0.0
    every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not (isinstance(self.alpha, int | float) and 0 <= self.alpha <= 1):
            raise InputError(f"alpha={self.alpha!r} is not a share", remedy="give alpha from 0 (never) to 1 (a copy)")
        if isinstance(self.every, bool) or not (isinstance(self.every, int) and self.every >= 1):
            raise InputError(f"every={self.every!r} is not a number of steps", remedy="give every of 1 or more")

    def moves_within(self, steps: float) -> bool:
        """Whether a step among so many sees a reference that has moved.

        >>> trailing(0.5, every=10).moves_within(10), trailing(0.5, every=10).moves_within(11)
        (False, True)
        """
        return self.alpha > 0 and self.every < steps


def fixed() -> Following:
    """The reference stays as it is."""
    return Following()


def synced(every: int) -> Following:
    """Every so many steps the reference becomes the policy."""
    return Following(1.0, every)


def trailing(alpha: float, every: int = 1) -> Following:
    """Every so many steps the reference goes the share ``alpha`` of the way to the policy's weights."""
    return Following(float(alpha), every)


FOLLOWINGS: Mapping[str, Callable[..., Following]] = {"fixed": fixed, "synced": synced, "trailing": trailing}


def following(given: Following | str | None) -> Following:
    """As it is, or from its text on a command line.

    >>> following("trailing:alpha=0.6,every=64"), following(None) == fixed()
    (Following(alpha=0.6, every=64), True)
    """
    if given is None or isinstance(given, Following):
        return given or fixed()
    name, options = parse(given)
    return make("following", look_up("following", FOLLOWINGS, name), name, options)


@dataclass(frozen=True)
class Moving:
    """A reference that follows the policy in training. ``start``: the policy it begins as, or a function that
    gives one, so that it need not stay in memory (None: as the policy begins)."""

    following: Following
    start: Any = None


@dataclass(frozen=True)
class Loaded:
    """Another policy, frozen, in memory while the policy trains: for objectives that look into it (stored numbers
    do for all others). ``policy``: where to load it from."""

    policy: Any


# -- references during training


class Reference(Protocol):
    """One reference while a policy trains."""

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What a checkpoint must keep of it; changed in place."""
        ...

    def check(self, contrasts: Sequence[Contrast], limits: Limits) -> None:
        """An InputError if it cannot be the reference of these contrasts."""
        ...

    def logp(self, indices: Sequence[int], batch: Batch) -> Tensor:
        """(N, T) log-probabilities of the batch's response tokens, without gradient."""
        ...

    def after(self, steps: int) -> None:
        """The policy has taken so many steps."""
        ...


def followings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree on: nothing where no reference moves."""
    moving = {name: [m.following.alpha, m.following.every] for name, m in given.items() if isinstance(m, Moving)}
    return {"following": moving} if moving else {}


def references_of(
    policy: Policy, given: Mapping[str, Arrays | Policy | Moving], contrasts: Sequence[Contrast], limits: Limits
) -> dict[str, Reference]:
    """The references of a training, each of them fit for its contrasts."""
    references = {name: _reference(name, one, policy) for name, one in given.items()}
    for reference in references.values():
        reference.check(contrasts, limits)
    return references


def _reference(name: str, given: Any, policy: Policy) -> Reference:
    if isinstance(given, Moving):
        return Follower(name, policy, given)
    return Live(name, given, policy) if hasattr(given, "logp") else Stored(name, given)


@dataclass(frozen=True)
class Stored:
    """Log-probabilities computed beforehand."""

    name: str
    logps: Arrays
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self, contrasts: Sequence[Contrast], limits: Limits) -> None:
        if len(self.logps) != len(contrasts):
            raise InputError(
                f"reference {self.name!r} is of {len(self.logps)} contrasts, training is on {len(contrasts)}",
                remedy="score the reference on the contrasts that are trained on",
            )

    def logp(self, indices: Sequence[int], batch: Batch) -> Tensor:
        """Padded as the batch's rows are: a copy, so nothing can move them."""
        flat = [array for i in indices for array in self.logps[i]]
        padded = np.zeros(tuple(batch.mask_NT.shape))
        if len(flat) != len(batch.rows):
            raise InputError(
                f"reference {self.name!r} has {len(flat)} responses where the contrasts have {len(batch.rows)}",
                remedy="score the reference on the contrasts that are trained on",
            )
        for n, (array, row) in enumerate(zip(flat, batch.rows, strict=True)):
            if len(array) != len(row.mask):
                raise InputError(
                    f"reference {self.name!r} has {len(array)} numbers for a response of {len(row.mask)} tokens",
                    remedy="score the reference on the same contrasts, with the same tokenizer, max_length and "
                    "max_prompt",
                )
            padded[n, : len(array)] = array
        return torch.from_numpy(padded)

    def after(self, steps: int) -> None:
        pass


@dataclass(frozen=True)
class Live:
    """Another policy, scored as it is needed and never changed."""

    name: str
    other: Policy
    policy: Policy
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self, contrasts: Sequence[Contrast], limits: Limits) -> None:
        _check_same_rows(self.name, self.policy, self.other, contrasts, limits)

    @torch.no_grad()
    def logp(self, indices: Sequence[int], batch: Batch) -> Tensor:
        with evaluating(self.other.module), _own_casts():
            return self.other.logp(batch)[0]

    @torch.no_grad()
    def view(self, batch: Batch, *, deep: bool = False) -> Any:
        """What ``objectives.readings`` see of it."""
        other: Any = self.other
        if not hasattr(other, "view"):
            raise InputError(
                f"the reference {self.name!r} cannot be looked into", remedy="give a causal language model"
            )
        with evaluating(self.other.module), _own_casts():
            return other.view(batch, deep=deep)

    def after(self, steps: int) -> None:
        pass


class Follower:
    """A copy of what training changes, lent to the policy's module while it is scored.

    Of an adapter the factors A and B are averaged, not their product: the same at alpha = 1, and close to it as
    long as one step of the average is small.
    """

    def __init__(self, name: str, policy: Policy, moving: Moving) -> None:
        assert policy.module is not None
        self.name, self.policy, self.module, self.following = name, policy, policy.module, moving.following
        self.start: Policy | None = moving.start() if callable(moving.start) else moving.start
        first = self.module if self.start is None else _like(name, self.module, self.start.module)
        own, theirs = _changing(self.module), _changing(first)
        if any(map(sharding.is_sharded, own.values())):
            raise InputError(
                f"the reference {name!r} cannot follow a policy that is sharded over processes",
                remedy="leave out shard (every process then holds the whole model), or keep the reference fixed",
            )
        self.live = own
        # In float32 or better: a small share of a small change would be lost in less.
        self.copies = {n: _wide(theirs[n]).detach().clone() for n in own}

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return {f"reference.{self.name}.{n}": copy for n, copy in self.copies.items()}

    def check(self, contrasts: Sequence[Contrast], limits: Limits) -> None:
        if self.start is not None:
            _check_same_rows(self.name, self.policy, self.start, contrasts, limits)
        self.start = None  # its weights are copied: it can go

    @torch.no_grad()
    def logp(self, indices: Sequence[int], batch: Batch) -> Tensor:
        with self._lent(), evaluating(self.module), _own_casts():
            return self.policy.logp(batch)[0]

    @torch.no_grad()
    def after(self, steps: int) -> None:
        if steps % self.following.every or not self.following.alpha:
            return
        for name, copy in self.copies.items():
            if self.following.alpha == 1 or not copy.is_floating_point():
                copy.copy_(self.live[name])
            else:
                copy.lerp_(_wide(self.live[name].detach()), self.following.alpha)

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """The module with the reference's weights; nothing is copied, and the policy's are back afterwards."""
        held = {n: live.data for n, live in self.live.items()}
        try:
            for n, live in self.live.items():
                live.data = self.copies[n].to(live.dtype)
            yield
        finally:
            for n, live in self.live.items():
                live.data = held[n]


def _changing(module: nn.Module) -> dict[str, Tensor]:
    """What training can change: trainable parameters, and buffers that are saved with a model."""
    named = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
    saved = module.state_dict().keys() - named
    return {**trainable, **{n: b for n, b in module.named_buffers() if n in saved}}


@contextmanager
def _own_casts() -> Iterator[None]:
    """Autocast remembers a parameter's cast: the policy's forward must not find the reference's (without gradient)."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False))
        yield


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _like(name: str, module: nn.Module, start: nn.Module | None) -> nn.Module:
    """The module a moving reference begins with, once it is sure that the policy's can stand in for it."""
    own, theirs = _changing(module), {} if start is None else _changing(start)
    if start is None or {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in theirs.items()}:
        raise InputError(
            f"the reference {name!r} cannot follow the policy: their weights are not of the same shapes",
            remedy="start a moving reference from a model of the same form, or let it begin as the policy",
        )
    frozen = {n: p for n, p in start.named_parameters() if n not in own}
    if not all(n in frozen and torch.equal(p, frozen[n]) for n, p in module.named_parameters() if n not in own):
        raise InputError(
            f"the reference {name!r} cannot follow the policy: what is frozen under their adapters differs",
            remedy="give both the same base model, or train all weights (no adapter)",
        )
    return start


def _check_same_rows(
    name: str, policy: Policy, other: Policy, contrasts: Sequence[Contrast], limits: Limits, tried: int = 3
) -> None:
    """A reference that reads texts as other ids would be scored on what it never would have read."""
    for i in range(min(tried, len(contrasts))):
        if policy.encode(contrasts[i], limits) != other.encode(contrasts[i], limits):
            raise InputError(
                f"the reference {name!r} has another tokenizer than the policy",
                remedy="compare with a model of the same tokenizer",
            )
