"""The best response against every clearly worse one, and the best one as a demonstration (OLAPH, arXiv 2405.12701)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.curating.reading import best, column
from prefine.registry import at_least
from prefine.slate import Contrast, Slate, pair, point


@dataclass(frozen=True)
class BestAgainstWorse:
    """See ``best_against_worse``."""

    by: str
    floor: float
    min_gap: float
    banned: tuple[str, ...]
    banned_in_chosen: tuple[str, ...]

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if not values or values[top := best(values)] < self.floor:
                continue
            chosen = slate.response(top)
            if not self._fit(chosen) or any(mark in chosen for mark in self.banned_in_chosen):
                continue
            seen = {chosen.strip()}
            for i in sorted(values, key=lambda i: (-values[i], i)):
                text = slate.response(i)
                # Every text once: the release only compares with the third best, and repeats others.
                lower = values[i] < values[top] and values[top] - values[i] >= self.min_gap
                if lower and self._fit(text) and text.strip() not in seen:
                    seen.add(text.strip())
                    yield pair(slate, top, i)

    def _fit(self, text: str) -> bool:
        return bool(text.strip()) and not any(mark in text for mark in self.banned)


@dataclass(frozen=True)
class Best:
    """The best response of every slate as a demonstration; nothing where no response was scored."""

    by: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = {i: v for i, v in column(slate, self.by).items() if slate.response(i).strip()}
            if values:
                yield point(slate, best(values), True)


def best_against_worse(
    by: str = "score",
    floor: float = float("-inf"),
    min_gap: float = 0.0,
    banned: tuple[str, ...] = (),
    banned_in_chosen: tuple[str, ...] = (),
) -> BestAgainstWorse:
    """The best response, if it scores at least ``floor``, against each that scores lower by at least ``min_gap``.

    Texts that are empty or contain something banned take no part, and the same text is rejected once.

    >>> from prefine.slate import Candidate, scores
    >>> told = [300, 275, 290, 279, 280, 260]
    >>> slate = Slate("x", tuple(Candidate(str(v)) for v in told), {"score": scores(told)})
    >>> [c.response(1) for c in best_against_worse(floor=200, min_gap=20)([slate], random.Random(0))]
    ['280', '279', '275', '260']
    """
    at_least(0, min_gap=min_gap)
    return BestAgainstWorse(by, floor, min_gap, tuple(banned), tuple(banned_in_chosen))


def best_of(by: str = "score") -> Best:
    """The best response of every slate, to imitate."""
    return Best(by)
