"""Slates without the same response twice: what is sampled often is no better for it, and need not be judged twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.registry import at_least
from prefine.slate import Slate


@dataclass(frozen=True)
class Distinct:
    """See ``distinct``."""

    most: int | None = None
    fewest: int = 2

    def __call__(self, slates: Iterable[Slate]) -> Iterator[Slate]:
        for slate in slates:
            first = {slate.response(i): i for i in reversed(slate.leaves())}
            kept = sorted(first.values())[: self.most]
            if len(kept) >= self.fewest:
                yield slate.take(kept)


def distinct(most: int | None = None, fewest: int = 2) -> Distinct:
    """The first ``most`` responses of every slate that differ as texts; slates with fewer than ``fewest`` are left out.

    >>> from prefine.slate import Candidate
    >>> slate = Slate("?", tuple(map(Candidate, ("a", "b", "a", "c"))))
    >>> [[c.text for c in kept.candidates] for kept in distinct(2)([slate])]
    [['a', 'b']]
    """
    at_least(1, fewest=fewest, **({} if most is None else {"most": most}))
    return Distinct(most, fewest)
