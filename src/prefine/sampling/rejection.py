"""Rejection sampling from pi_0 exp(r/eta)/Z, in one step or down a ladder of temperatures (arXiv 2312.11456).

A proposal with reward r is accepted with probability exp((1/eta - 1/eta_0)(r - r_max)), eta_0 the temperature
whose target the proposals come from (infinity: pi_0 itself). In one step that is exponentially small in
r_max/eta; down a ladder eta_1 > ... > eta_N = eta, refitting the sampler to what was accepted, every step
accepts a constant share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prefine.curating.reading import column
from prefine.errors import RunStopped
from prefine.registry import at_least, positive
from prefine.slate import Contrast, Slate, point

T = TypeVar("T")
Sampler = Callable[[random.Random], T]


def ladder(eta: float, steps: int) -> list[float]:
    """N temperatures down to eta whose inverses grow evenly from 0, so that all steps accept alike.

    >>> ladder(0.5, 4)
    [2.0, 1.0, 0.6666666666666666, 0.5]
    """
    positive(eta=eta)
    at_least(1, steps=steps)
    return [eta * steps / n for n in range(1, steps + 1)]


def acceptance(r: float, r_max: float, eta: float, eta_before: float = math.inf) -> float:
    """exp( (1/eta - 1/eta_before) (r - r_max) ).

    >>> acceptance(1.0, 1.0, 0.5), round(acceptance(0.0, 1.0, 0.5), 6), round(acceptance(0.0, 1.0, 0.5, 1.0), 6)
    (1.0, 0.135335, 0.367879)
    """
    return math.exp((1 / eta - 1 / eta_before) * (r - r_max))


@dataclass(frozen=True)
class Accepted(Generic[T]):
    """What was accepted, and how many proposals every step of the ladder took."""

    samples: list[T]
    proposals: list[int]


def resample(accepted: list[T]) -> Sampler[T]:
    """The plainest refit: draw from what was accepted, with replacement."""
    return lambda rng: rng.choice(accepted)


def rejection_sample(
    draw: Sampler[T],
    reward: Callable[[T], float],
    etas: Sequence[float],
    n: int,
    rng: random.Random,
    *,
    r_max: float,
    refit: Callable[[list[T]], Sampler[T]] = resample,
    most: int = 10_000_000,
) -> Accepted[T]:
    """n samples of pi_0 exp(r/eta_N)/Z. ``draw`` samples pi_0; ``refit`` turns n accepted samples into the
    sampler of the next step (fine-tuning, in practice). One temperature is plain rejection sampling."""
    proposals, before = [], math.inf
    accepted: list[T] = []
    for eta in etas:
        accepted, tried = [], 0
        while len(accepted) < n:
            if tried == most:
                raise RunStopped(
                    f"{most} proposals gave only {len(accepted)} of {n} samples at temperature {eta}",
                    remedy="use more steps, a higher temperature or a tighter r_max",
                )
            tried += 1
            proposal = draw(rng)
            if rng.random() < acceptance(reward(proposal), r_max, eta, before):
                accepted.append(proposal)
        proposals.append(tried)
        draw, before = refit(accepted), eta
    return Accepted(accepted, proposals)


@dataclass(frozen=True)
class RejectionSampled:
    """One step of the ladder as a curator: the accepted responses of a slate, as good points to fine-tune on.

    r_max is the highest reward on the slate, so every slate keeps at least one response.
    """

    eta: float
    eta_before: float = math.inf
    by: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            r_max = max(values.values(), default=0.0)
            for i, r in values.items():
                if rng.random() < acceptance(r, r_max, self.eta, self.eta_before):
                    yield point(slate, i, True)


def rejection_sampled(eta: float, eta_before: float = math.inf, by: str = "score") -> RejectionSampled:
    """The responses that rejection sampling towards exp(r/eta) accepts."""
    positive(eta=eta)
    return RejectionSampled(eta, eta_before, by)
