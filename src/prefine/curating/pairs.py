"""Many pairs, lists and labelled pairs from one slate."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from prefine.curating.reading import carried, column, named, pair_of
from prefine.registry import at_least
from prefine.slate import Contrast, Slate, ranking


@dataclass(frozen=True)
class AllPairs:
    """Every two responses whose scores differ by more than ``min_gap``, at most ``limit`` random ones."""

    by: str = "score"
    min_gap: float = 0.0
    limit: int | None = None
    carry: tuple[str, ...] = ()

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            best_first = sorted(values, key=lambda i: (-values[i], i))
            found = [(w, l) for w, l in combinations(best_first, 2) if values[w] - values[l] > self.min_gap]
            if self.limit is not None and len(found) > self.limit:
                found = [found[i] for i in sorted(rng.sample(range(len(found)), self.limit))]
            for chosen, rejected in found:
                yield pair_of(slate, chosen, rejected, self.carry)


@dataclass(frozen=True)
class Ranked:
    """All scored responses as one list, best first (equals in the order they came)."""

    by: str = "score"
    at_most: int | None = None
    carry: tuple[str, ...] = ()

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            best_first = sorted(values, key=lambda i: (-values[i], i))[: self.at_most]
            if len(best_first) > 1 and values[best_first[0]] > values[best_first[-1]]:
                yield ranking(slate, best_first, **carried(slate, best_first, self.carry))


def all_pairs(
    by: str = "score", min_gap: float = 0.0, limit: int | None = None, carry: str | tuple[str, ...] = ()
) -> AllPairs:
    """Every two responses with a gap above ``min_gap``."""
    at_least(0, min_gap=min_gap)
    return AllPairs(by, min_gap, limit, named(carry))


def ranked(by: str = "score", at_most: int | None = None, carry: str | tuple[str, ...] = ()) -> Ranked:
    """Ranked lists, best first."""
    return Ranked(by, at_most, named(carry))
