"""Pairs across models: rejected from the past, chosen from the future (arXiv 2508.06026).

Self-rewarding stalls because chosen and rejected come from one improving model and grow alike. Here a
response may come from an earlier model, or from one trained a step ahead. The two rules are pure functions
of score tables; the curators apply them to slates whose candidates have roles.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prefine.curating.reading import best, column, of_role, pair_of, worst
from prefine.slate import Contrast, Slate

Scores = Mapping[int, float]
"""Response -> score."""


def past_pair(current: Scores, past: Scores) -> tuple[int, int] | None:
    """(chosen, rejected): the current best against the past worst if that is below the current worst.

    None when the chosen does not score above the rejected.

    >>> past_pair({0: 3.0, 1: 2.0}, {2: 1.0, 3: 4.0}), past_pair({0: 3.0, 1: 2.0}, {2: 2.0})
    ((0, 2), (0, 1))
    """
    return future_pair(current, past, {})


def future_pair(current: Scores, past: Scores, future: Scores) -> tuple[int, int] | None:
    """(chosen, rejected): the future best if it is above the current best, against the rejected of the past.

    >>> future_pair({0: 3.0, 1: 2.0}, {2: 1.0}, {4: 3.5}), future_pair({0: 3.0, 1: 2.0}, {2: 1.0}, {4: 3.0})
    ((4, 2), (0, 2))
    """
    everything = {**current, **past, **future}
    chosen = best(future if future and max(future.values()) > max(current.values()) else current)
    rejected = worst(past if past and min(past.values()) < min(current.values()) else current)
    return (chosen, rejected) if everything[chosen] > everything[rejected] else None


@dataclass(frozen=True)
class Temporal:
    """``future_pair`` on slates whose candidates have these roles; without a future role it is ``past_pair``."""

    by: str = "score"
    current: str = "current"
    past: str = "past"
    future: str | None = None

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            now, before = (of_role(slate, values, role) for role in (self.current, self.past))
            ahead = of_role(slate, values, self.future) if self.future else {}
            picked = future_pair(now, before, ahead) if now else None
            if picked is not None:
                yield pair_of(slate, *picked)


def temporal_past(by: str = "score", current: str = "current", past: str = "past") -> Temporal:
    """Anchored rejection: the rejected response may come from a past model."""
    return Temporal(by, current, past)


def temporal_future(
    by: str = "score", current: str = "current", past: str = "past", future: str = "future"
) -> Temporal:
    """Future-guided choice: the chosen response may come from a model one step ahead."""
    return Temporal(by, current, past, future)
