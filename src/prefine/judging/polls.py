"""Several votes on every comparison, and strengths from counts of wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefine.judging.annotators import dice
from prefine.judging.base import Judge
from prefine.judging.compared import only_table
from prefine.slate import Feedback, Slate, table


@dataclass(frozen=True)
class Polled:
    """The share of h votes for each of two responses, where a judge gives the probability of one vote.

    Every pair is voted on h times, independently; the diagonal is 1/2. Column: "preference".
    """

    judge: Judge
    votes: int = 9
    seed: int = 0
    name: str = "preference"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        found = self.judge(slates)
        return [
            {self.name: table(self._shares(slate, only_table(columns)))}
            for slate, columns in zip(slates, found, strict=True)
        ]

    def _shares(self, slate: Slate, P: Sequence[Sequence[float]]) -> list[list[float]]:
        rng = dice("polled", self.seed, slate)
        shares = [[0.5] * len(P) for _ in P]
        for i in range(len(P)):
            for j in range(i + 1, len(P)):
                shares[i][j] = sum(rng.random() < P[i][j] for _ in range(self.votes)) / self.votes
                shares[j][i] = 1 - shares[i][j]
        return shares


def zermelo(wins: Sequence[Sequence[float]], tolerance: float = 1e-8, at_most: int = 10_000) -> list[float]:
    """Bradley-Terry strengths from how often i beat j (Zermelo 1929), their sum 1.

    p_i <- sum_j W_ij / sum_j [ (W_ij + W_ji)/(p_i + p_j) ], normalised, until nothing changes by the tolerance. One
    that never lost goes towards 1 without end, which ``at_most`` steps cut short.

    >>> [round(p, 4) for p in zermelo([[0, 3], [1, 0]])]
    [0.75, 0.25]
    """
    W = np.asarray(wins, dtype=float)
    W = W - np.diag(np.diag(W))
    p = np.full(len(W), 1 / len(W))
    for _ in range(at_most):
        games = ((W + W.T) / (p[:, None] + p[None, :]).clip(min=1e-300)).sum(1)
        new = np.divide(W.sum(1), games, out=p.copy(), where=games > 0)
        new = new / new.sum()
        change, p = float(np.abs(new - p).max()), new
        if change < tolerance:
            break
    return [float(x) for x in p]
