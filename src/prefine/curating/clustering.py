"""Clusters of responses: k-means, weighted k-medoids, and subsets that stand for all and are unlike one another.

Plain functions of vectors and distances; what is small enough is solved exactly, by looking at every choice.
"""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np

from prefine.registry import at_least

EXACT = 5000
"""Up to so many subsets all of them are tried."""


def k_means(x_ND: np.ndarray, k: int, rng: random.Random, restarts: int = 8, steps: int = 100) -> np.ndarray:
    """(N,) cluster numbers 0 .. k-1: sum_i || x_i - mean of its cluster ||^2 as small as several starts find it.

    Lloyd's steps from k-means++ starts (each next centre drawn by squared distance). Fewer distinct points than
    clusters leave clusters empty.

    >>> k_means(np.array([[0.0], [0.1], [5.0], [5.2]]), 2, random.Random(0)).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    at_least(1, k=k)
    draws = np.random.default_rng(rng.getrandbits(63))
    found = [_lloyd(x_ND, _starts(x_ND, k, draws), steps) for _ in range(restarts)]
    return min(found, key=lambda part: spread_within(x_ND, part))


def spread_within(x_ND: np.ndarray, cluster_N: np.ndarray) -> float:
    """What k-means makes small: squared distances to the means of the clusters, added up.

    >>> spread_within(np.array([[0.0], [2.0], [7.0]]), np.array([0, 0, 1]))
    2.0
    """
    parts = (x_ND[cluster_N == c] for c in np.unique(cluster_N))
    return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))


def _starts(x_ND: np.ndarray, k: int, draws: np.random.Generator) -> np.ndarray:
    chosen = [int(draws.integers(len(x_ND)))]
    while len(chosen) < min(k, len(x_ND)):
        near_N = ((x_ND[:, None] - x_ND[chosen][None]) ** 2).sum(-1).min(1)
        total = near_N.sum()
        if total <= 0:  # fewer distinct points than centres
            break
        chosen.append(int(draws.choice(len(x_ND), p=near_N / total)))
    return x_ND[chosen]


def _lloyd(x_ND: np.ndarray, centre_KD: np.ndarray, steps: int) -> np.ndarray:
    centre_KD = centre_KD.copy()
    cluster_N = np.full(len(x_ND), -1)
    for _ in range(steps):
        now_N = ((x_ND[:, None] - centre_KD[None]) ** 2).sum(-1).argmin(1)
        if (now_N == cluster_N).all():
            break
        cluster_N = now_N
        for c in np.unique(cluster_N):
            centre_KD[c] = x_ND[cluster_N == c].mean(0)
    return cluster_N


def cover_cost(distance_NN: np.ndarray, weight_N: np.ndarray, chosen: list[int]) -> float:
    """sum_i w_i min_{j in S} d_ij: how far, by weight, everything is from the nearest of the chosen.

    >>> cover_cost(np.array([[0.0, 1.0, 4.0], [1.0, 0.0, 3.0], [4.0, 3.0, 0.0]]), np.array([1.0, 1.0, 2.0]), [1])
    7.0
    """
    return float(weight_N @ distance_NN[:, chosen].min(1))


def k_medoids(distance_NN: np.ndarray, k: int, weight_N: np.ndarray | None = None, exact: int = EXACT) -> list[int]:
    """k of the points that cover all, argmin_{|S| = k} of ``cover_cost``; sorted.

    Every subset is tried where there are at most ``exact`` of them. Else local search: from the k heaviest points the
    best single swap, until none lowers the cost (at most 5 times the optimum: Arya et al., 2004).

    >>> k_medoids(np.abs(np.subtract.outer([0.0, 1.0, 9.0, 9.5], [0.0, 1.0, 9.0, 9.5])), 2)
    [0, 2]
    """
    N = len(distance_NN)
    weights = np.ones(N) if weight_N is None else np.asarray(weight_N, dtype=float)
    at_least(1, k=k)
    if k >= N:
        return list(range(N))
    if math.comb(N, k) <= exact:
        return list(min(combinations(range(N), k), key=lambda s: cover_cost(distance_NN, weights, list(s))))
    chosen = sorted(sorted(range(N), key=lambda i: (-weights[i], i))[:k])
    cost = cover_cost(distance_NN, weights, chosen)
    while True:
        swaps = [sorted({*chosen, new} - {old}) for old in chosen for new in range(N) if new not in chosen]
        costs = [cover_cost(distance_NN, weights, swap) for swap in swaps]
        best = int(np.argmin(costs))
        if costs[best] >= cost - 1e-12 * (1 + abs(cost)):
            return chosen
        chosen, cost = swaps[best], costs[best]


def worth(similarity_NN: np.ndarray, chosen: list[int], lam: float) -> float:
    """f(X) = 1/((N-1) k) sum_{i in X, j} M_ij - lam/(k (k-1)) sum_{i, j in X} M_ij, the diagonal left out.

    How like all others the chosen are (what a reference answer would be, by minimum Bayes risk), less how like one
    another (AEPO, arXiv 2405.13541). For k = 1 only the first part means anything.

    >>> worth(np.array([[1.0, 0.8, 0.2], [0.8, 1.0, 0.4], [0.2, 0.4, 1.0]]), [0, 1], 1.0)  # 2.2/4 - 1.6/2
    -0.25
    """
    M = similarity_NN - np.diag(np.diag(similarity_NN))
    k, N = len(chosen), len(M)
    standing = M[chosen].sum() / (max(N - 1, 1) * k)
    alike = M[np.ix_(chosen, chosen)].sum() / (k * (k - 1)) if k > 1 else 0.0
    return round(float(standing - lam * alike), 12)


def _worths(similarity_NN: np.ndarray, every_SK: np.ndarray, lam: float) -> np.ndarray:
    """(S,) ``worth`` of many subsets of one size."""
    M = similarity_NN - np.diag(np.diag(similarity_NN))
    k, N = every_SK.shape[1], len(M)
    standing_S = M.sum(1)[every_SK].sum(1) / (max(N - 1, 1) * k)
    alike_S = sum((M[every_SK[:, a], every_SK[:, b]] for a in range(k) for b in range(k) if a != b), np.zeros(()))
    return np.round(standing_S - lam * alike_S / max(k * (k - 1), 1), 12)


def representative(
    similarity_NN: np.ndarray, k: int, lam: float, rng: random.Random, swaps: int = 20, exact: int = 2 * EXACT
) -> list[int]:
    """k of N that stand for all and are unlike one another: argmax of ``worth``; sorted.

    Every subset is tried where there are at most ``exact`` of them (the first among equals). Else the paper's solver:
    k times the element that makes f largest, then ``swaps`` times a random one of the chosen leaves, and the best one
    of those outside comes in if f does not fall. (On random similarities that finds the optimum of 2 or 3 of 10 in
    about half of the cases, so it is for what is too large to try.)

    >>> M = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    >>> representative(M, 2, 0.0, random.Random(0)), representative(M, 2, 2.0, random.Random(0))
    ([0, 1], [0, 2])
    """
    at_least(1, k=k)
    N = len(similarity_NN)
    if math.comb(N, min(k, N)) <= exact:
        every_SK = np.array(list(combinations(range(N), min(k, N))))
        return [int(i) for i in every_SK[_worths(similarity_NN, every_SK, lam).argmax()]]

    def best_with(kept: list[int]) -> list[int]:
        return max(
            ([*kept, i] for i in range(N) if i not in kept), key=lambda s: (worth(similarity_NN, s, lam), -s[-1])
        )

    chosen: list[int] = []
    while len(chosen) < min(k, N):
        chosen = best_with(chosen)
    for _ in range(swaps if k < N else 0):
        out = rng.choice(chosen)
        other = best_with([i for i in chosen if i != out])
        if worth(similarity_NN, other, lam) >= worth(similarity_NN, chosen, lam):
            chosen = other
    return sorted(chosen)
