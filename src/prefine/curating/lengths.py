"""Length-balanced pairs: one length penalty for the corpus, at which chosen and rejected are equally long."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefine.curating.reading import best, characters, column, tokens, worst
from prefine.errors import InputError
from prefine.registry import at_least
from prefine.slate import Contrast, Slate, pair

Scored = Sequence[tuple[dict[int, float], dict[int, int]]]
"""For every prompt: response -> reward, response -> length."""


@dataclass(frozen=True)
class LengthBalanced:
    """Best against worst of r - alpha * characters, alpha searched on the corpus (DICE, arXiv 2406.09760).

    Dropped first: responses cut at the length limit, those with a character length outside the open interval
    (``min_characters``, ``max_characters``), and prompts with fewer than ``min_survivors`` left.
    """

    by: str = "score"
    step: float = 0.001
    steps: int = 1000
    min_survivors: int = 8
    min_characters: int = 3
    max_characters: int = 6700
    alpha: float | None = None
    """A fixed penalty instead of the search."""

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        kept = list(self.survivors(slates))
        alpha = self.penalty([(values, lengths) for _, values, lengths in kept])
        for slate, values, lengths in kept:
            chosen, rejected = extremes_at(alpha, values, lengths)
            if chosen != rejected:
                yield pair(slate, chosen, rejected)

    def survivors(self, slates: Iterable[Slate]) -> Iterator[tuple[Slate, dict[int, float], dict[int, int]]]:
        """(slate, rewards, lengths) of the prompts that keep enough responses."""
        for slate in slates:
            if len(slate.leaves()) < self.min_survivors:
                raise InputError(
                    f"{len(slate.leaves())} responses a prompt can never leave min_survivors={self.min_survivors}",
                    remedy="sample more (n), or ask for fewer (min_survivors)",
                )
            lengths = {i: characters(slate, i) for i in slate.leaves()}
            values = {
                i: v
                for i, v in column(slate, self.by).items()
                if slate.candidates[i].stop != "length" and self.min_characters < lengths[i] < self.max_characters
            }
            if len(values) >= max(2, self.min_survivors):
                yield slate, values, lengths

    def penalty(self, scored: Scored) -> float:
        """alpha*, or the fixed one."""
        return balanced_penalty(scored, self.step, self.steps) if self.alpha is None else self.alpha


def balanced_penalty(scored: Scored, step: float = 0.001, steps: int = 1000) -> float:
    """The alpha of 0, step, ... with the smallest |mean length of the best - mean length of the worst|.

    The sweep goes up from 0 and ends when the gap is larger than the smallest so far: the curve is taken to
    have one valley.

    >>> balanced_penalty([({0: 1.0, 1: 0.0}, {0: 30, 1: 10})], step=0.1, steps=10)  # at 0.1 they change places
    0.0
    >>> balanced_penalty([({0: 1.0, 1: 0.9, 2: 0.0}, {0: 30, 1: 11, 2: 10})], step=0.1, steps=10)
    0.1
    """
    best_alpha, smallest = 0.0, float("inf")
    for n in range(steps):
        gap = abs(mean_gap(n * step, scored))
        if gap > smallest:
            break
        if gap < smallest:
            best_alpha, smallest = n * step, gap
    return best_alpha


def mean_gap(alpha: float, scored: Scored) -> float:
    """Mean over prompts of length(best) - length(worst) at a penalty."""
    gaps = [lengths[w] - lengths[l] for values, lengths in scored for w, l in [extremes_at(alpha, values, lengths)]]
    return sum(gaps) / max(len(gaps), 1)


def extremes_at(alpha: float, values: dict[int, float], lengths: dict[int, int]) -> tuple[int, int]:
    """Best and worst response of r - alpha * length."""
    penalised = {i: v - alpha * lengths[i] for i, v in values.items()}
    return best(penalised), worst(penalised)


def length_balanced(
    by: str = "score",
    min_survivors: int = 8,
    min_characters: int = 3,
    max_characters: int = 6700,
    step: float = 0.001,
    steps: int = 1000,
    alpha: float | None = None,
) -> LengthBalanced:
    """Best against worst with the length penalty that makes them equally long on the corpus."""
    at_least(2, min_survivors=min_survivors)
    at_least(1, steps=steps)
    return LengthBalanced(by, step, steps, min_survivors, min_characters, max_characters, alpha)


@dataclass(frozen=True)
class LengthMatched:
    """The pair with the largest gap among those of nearly equal length: lessons about quality alone.

    Two responses match when their lengths in tokens differ by at most ``within`` of the longer, or by one token.
    Slates without a matching pair of different scores give none.
    """

    by: str = "score"
    within: float = 0.1

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            pairs = [(w, l) for w in values for l in values if values[w] > values[l] and self._match(slate, w, l)]
            if pairs:
                yield pair(slate, *max(pairs, key=lambda p: (values[p[0]] - values[p[1]], -p[0], -p[1])))

    def _match(self, slate: Slate, a: int, b: int) -> bool:
        m, n = tokens(slate, a), tokens(slate, b)
        return abs(m - n) <= max(1.0, self.within * max(m, n))


def length_matched(by: str = "score", within: float = 0.1) -> LengthMatched:
    """Better against worse at equal length."""
    at_least(0, within=within)
    return LengthMatched(by, within)
