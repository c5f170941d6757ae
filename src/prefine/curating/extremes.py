"""Pairs from the ends of a slate's scores: best against worst, and which best and which worst.

All of them give at most one pair a slate (``extremes`` more if asked) and none when the two score alike;
among equals the first response is taken. ``carry`` names columns to go along as values of the members.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean, pstdev

from prefine.curating.reading import best, characters, column, named, pair_of, worst
from prefine.registry import at_least
from prefine.slate import Contrast, Slate

Rule = Callable[[dict[int, float], random.Random], tuple[int, int] | None]
"""(response -> score, random source) -> two of the responses, or none."""


@dataclass(frozen=True)
class ChosenPairs:
    """One pair a slate, picked by a rule from its scores; the one with the higher score is chosen.

    ``length_penalty`` is taken off for every character before the rule looks (and decides who is chosen).
    """

    rule: Rule
    by: str = "score"
    length_penalty: float = 0.0
    min_candidates: int = 2
    carry: tuple[str, ...] = ()

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if self.length_penalty:
                values = {i: v - self.length_penalty * characters(slate, i) for i, v in values.items()}
            if len(values) < max(2, self.min_candidates):
                continue
            picked = self.rule(values, rng)
            if picked is None or values[picked[0]] == values[picked[1]]:
                continue
            chosen, rejected = sorted(picked, key=lambda i: -values[i])
            yield pair_of(slate, chosen, rejected, self.carry)


def max_and_min(values: dict[int, float], rng: random.Random) -> tuple[int, int]:
    return best(values), worst(values)


def max_and_first(values: dict[int, float], rng: random.Random) -> tuple[int, int]:
    """Candidates come in random order, so the first that is not the best is a random other one."""
    top = best(values)
    return top, next(i for i in values if i != top)


def max_and_second(values: dict[int, float], rng: random.Random) -> tuple[int, int]:
    top = best(values)
    return top, best({i: v for i, v in values.items() if i != top})


def any_two(values: dict[int, float], rng: random.Random) -> tuple[int, int]:
    first, second = rng.sample(list(values), 2)
    return first, second


@dataclass(frozen=True)
class Extremes:
    """The ``top`` best against the ``bottom`` worst, every combination with a gap above ``min_gap``."""

    by: str = "score"
    top: int = 1
    bottom: int = 1
    min_gap: float = 0.0
    carry: tuple[str, ...] = ()

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            best_first = sorted(values, key=lambda i: (-values[i], i))
            worst_first = sorted(values, key=lambda i: (values[i], i))
            for chosen in best_first[: self.top]:
                for rejected in worst_first[: self.bottom]:
                    if values[chosen] - values[rejected] > self.min_gap:
                        yield pair_of(slate, chosen, rejected, self.carry)


@dataclass(frozen=True)
class BestWorstOf:
    """The best of ``best_of`` random responses against the worst of ``worst_of`` random ones (None: of all).

    The low ones are drawn from all of them, so that the expected minimum does not depend on how many there are; where
    the best itself is all that was drawn, another is drawn.
    """

    best_of: int | None = None
    worst_of: int | None = None

    def __call__(self, values: dict[int, float], rng: random.Random) -> tuple[int, int] | None:
        def some(of: list[int], n: int | None) -> list[int]:
            return of if n is None else sorted(rng.sample(of, min(n, len(of))))

        top = best({i: values[i] for i in some(list(values), self.best_of)})
        low = [i for i in some(list(values), self.worst_of) if i != top] or some([i for i in values if i != top], 1)
        return top, worst({i: values[i] for i in low})


@dataclass(frozen=True)
class Nearest:
    """The responses nearest to mu + c sigma of the slate's scores, for two c; +-inf are the extremes."""

    chosen: float
    rejected: float

    def __call__(self, values: dict[int, float], rng: random.Random) -> tuple[int, int] | None:
        high, low = nearest(values, self.chosen), nearest(values, self.rejected)
        return None if high == low else (high, low)


def nearest(values: dict[int, float], c: float) -> int:
    """The response whose score is nearest to mu + c sigma (population sigma); the first among equals.

    >>> nearest({0: 0.0, 1: 1.0, 2: 5.0}, 0.0), nearest({0: 0.0, 1: 1.0, 2: 5.0}, math.inf)  # mu = 2
    (1, 2)
    """
    if math.isinf(c):
        return best(values) if c > 0 else worst(values)
    at = fmean(values.values()) + c * pstdev(values.values())
    return min(values, key=lambda i: (abs(values[i] - at), i))


ANCHORS: dict[str, float] = {
    "min": -math.inf, "mu-2": -2.0, "mu-1": -1.0, "mu": 0.0, "mu+1": 1.0, "mu+2": 2.0, "max": math.inf,
}  # fmt: skip
"""The points of a slate's scores that a response may be taken from: c of mu + c sigma."""


def pairings() -> list[tuple[str, str]]:
    """(higher anchor, lower anchor), all of them.

    >>> len(pairings()), pairings()[0]
    (21, ('max', 'min'))
    """
    names = list(ANCHORS)
    return [(high, low) for at, high in reversed(list(enumerate(names))) for low in names[:at]]


def extremes(
    by: str = "score", top: int = 1, bottom: int = 1, min_gap: float = 0.0, carry: str | tuple[str, ...] = ()
) -> Extremes:
    """Best against worst; with ``top`` and ``bottom``, several of each."""
    at_least(1, top=top, bottom=bottom)
    at_least(0, min_gap=min_gap)
    return Extremes(by, top, bottom, min_gap, named(carry))


def max_min(by: str = "score", min_candidates: int = 2) -> ChosenPairs:
    """Best against worst (the default of arXiv 2312.11456's code); fewer candidates than asked: no pair."""
    return ChosenPairs(max_and_min, by, min_candidates=min_candidates)


def max_random(by: str = "score", min_candidates: int = 2) -> ChosenPairs:
    """Best against the first of the others."""
    return ChosenPairs(max_and_first, by, min_candidates=min_candidates)


def max_max(by: str = "score", min_candidates: int = 2) -> ChosenPairs:
    """Best against second best."""
    return ChosenPairs(max_and_second, by, min_candidates=min_candidates)


def max_min_p(by: str = "score", length_penalty: float = 0.001, min_candidates: int = 2) -> ChosenPairs:
    """Best against worst of score - penalty * characters."""
    return ChosenPairs(max_and_min, by, length_penalty, min_candidates)


def random_pairs(by: str = "score", min_candidates: int = 2) -> ChosenPairs:
    """Two random responses, the better one chosen."""
    return ChosenPairs(any_two, by, min_candidates=min_candidates)


def best_worst_of(best_of: int | None = None, worst_of: int | None = None, by: str = "score") -> ChosenPairs:
    """Best of n random responses against worst of m random ones (None: of all). With m = 5 this is the strategy of
    arXiv 2502.16825 for many responses: the rejected stays near mu - 1.16 sigma however large n is."""
    at_least(1, **{k: v for k, v in (("best_of", best_of), ("worst_of", worst_of)) if v is not None})
    return ChosenPairs(BestWorstOf(best_of, worst_of), by)


def sweet_spot(by: str = "score", rejected: float = -2.0, chosen: float = math.inf) -> ChosenPairs:
    """Best against the response nearest to mu - 2 sigma (arXiv 2502.16825): not the very worst."""
    return ChosenPairs(Nearest(chosen, rejected), by)
