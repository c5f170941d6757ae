"""Pairs with win rates, from K x K tables of preferences: what self-play objectives regress on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.curating.reading import best, worst
from prefine.slate import Contrast, Slate, pair


@dataclass(frozen=True)
class WinRatePairs:
    """Best against worst of K, with what a self-play objective needs (SPPO, arXiv 2405.00675).

    win_i = mean over j of P[i][j], the diagonal (1/2) included; the best and the worst by ``by``, or by win_i.
    Values: win = (of chosen, of rejected), preference = P[chosen][rejected]. Equal scores give no pair.
    """

    table: str = "preference"
    by: str | None = None

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            P = preferences(slate, self.table)
            if len(P) < 2:
                continue
            win = win_rates(P)
            values = dict(enumerate(win if self.by is None else slate.column(self.by)))
            known = {i: v for i, v in values.items() if v is not None}
            if len(known) < 2:
                continue
            chosen, rejected = best(known), worst(known)
            if known[chosen] > known[rejected]:
                yield pair(slate, chosen, rejected, win=(win[chosen], win[rejected]), preference=P[chosen][rejected])


def preferences(slate: Slate, table: str) -> tuple[tuple[float, ...], ...]:
    """The table, or where a judge only scored, p_ij = sigma(s_i - s_j) of its scores, as SPPO's release does."""
    from prefine.judging import BradleyTerryTable

    if table in slate.feedback or "score" not in slate.feedback or None in slate.column("score"):
        return slate.column(table)
    return BradleyTerryTable("score")([slate])[0]["preference"].values


def win_rates(P: tuple[tuple[float, ...], ...] | list[list[float]]) -> list[float]:
    """(K,) mean probability of every response to beat the K, itself (1/2) included.

    >>> win_rates([[0.5, 1.0], [0.0, 0.5]])
    [0.75, 0.25]
    """
    return [sum(row) / len(row) for row in P]


def win_rate_pairs(table: str = "preference", by: str | None = None) -> WinRatePairs:
    """Best against worst by win rate (or by a score column), with both win rates as values."""
    return WinRatePairs(table, by)
