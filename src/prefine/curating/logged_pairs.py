"""Logged comparisons beside fresh samples, in both orders: what a doubly robust estimate is made of."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.registry import at_least
from prefine.slate import CHOSEN, OTHER, REJECTED, Contrast, Slate, group


def beside_samples(pairs: Iterable[Contrast], samples: Iterable[Slate]) -> Iterator[Slate]:
    """One slate a pair, for a judge to compare: the chosen, the rejected, and the samples for the same prompt.

    >>> from prefine.slate import Candidate, pair
    >>> logged = Slate("x", (Candidate("a"), Candidate("b")))
    >>> [slate] = beside_samples([pair(logged, 1, 0)], [Slate("x", (Candidate("c"),))])
    >>> [c.text for c in slate.candidates]
    ['b', 'a', 'c']
    """
    for contrast, slate in zip(pairs, samples, strict=True):
        if slate.prompt != contrast.prompt(0):
            raise ValueError("samples of other prompts than the pairs'")
        two = [contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED)]
        logged = contrast.slate.take(two)
        if len(logged) != 2:
            raise ValueError("logged pairs are of whole responses")
        yield Slate(
            slate.prompt, (*(replace(c, prompt=None) for c in logged.candidates), *slate.candidates), {}, slate.meta
        )


@dataclass(frozen=True)
class BothOrders:
    """Each slate of ``beside_samples`` as two rows, (a1, a2, z) and (a2, a1, 1 - z): see ``both_orders``."""

    by: str
    model: bool
    unfinished: float

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            P = slate.column(self.by)
            own = range(2, len(slate))
            cut = [self.unfinished * (slate.candidates[i].stop == "length") for i in own]
            for a1, a2, z in ((0, 1, 1.0), (1, 0, 0.0)):
                wins = [P[i][a2] - lost for i, lost in zip(own, cut, strict=True)]
                roles = (CHOSEN if z else REJECTED, *(OTHER for _ in own))
                residual = z - (P[a1][a2] if self.model else 0.0)
                yield group(slate, (a1, *own), roles, residual=residual, win=(P[a1][a2], *wins))


def both_orders(by: str = "preference", model: bool = True, unfinished: float = 0.0) -> BothOrders:
    """Rows for the doubly robust loss (Xu et al., arXiv 2506.01183), from judged slates of ``beside_samples``.

    a1 is the logged response of a row, with role +1 if it was preferred (z = 1) and -1 if not; the samples have role
    0. ``residual`` = z - g(a1, a2) (z alone without ``model``), ``win`` = g(., a2), ``unfinished`` taken off for
    samples that were cut before their end. g is the table column ``by``.
    """
    at_least(0, unfinished=unfinished)
    return BothOrders(by, model, unfinished)
