"""Strongest against weakest by several annotators' votes, and how they split (iREPO, arXiv 2405.15230)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.curating.reading import best, worst
from prefine.judging.polls import zermelo
from prefine.slate import Contrast, Slate, pair


@dataclass(frozen=True)
class StrongestWeakest:
    """y_1 and y_2 of a K x K table of vote shares; the value "preference" is the share for y_1.

    Of two responses the share as it is; of more, Bradley-Terry strengths p from all the votes (Zermelo's
    iteration), the strongest against the weakest with p_1/(p_1 + p_2). A tie is a lesson too: p = 1/2.
    """

    table: str = "preference"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            shares, leaves = slate.column(self.table), slate.leaves()
            if len(leaves) < 2:
                continue
            strengths = zermelo([[float(shares[i][j]) for j in leaves] for i in leaves])
            by = dict(zip(leaves, strengths, strict=True))
            first, second = best(by), worst(by)
            first, second = (leaves[0], leaves[1]) if first == second else (first, second)
            if slate.response(first) != slate.response(second):
                two = len(leaves) == 2
                p = float(shares[first][second]) if two else by[first] / (by[first] + by[second])
                yield pair(slate, first, second, preference=p)


def strongest_weakest(table: str = "preference") -> StrongestWeakest:
    """Strongest against weakest, with the empirical preference between them."""
    return StrongestWeakest(table)
