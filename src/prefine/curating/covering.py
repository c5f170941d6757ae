"""The best response against a few that cover the rest: which negatives are worth a place (AMPO, arXiv 2502.18293)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from prefine.curating.clustering import k_means, k_medoids
from prefine.curating.reading import best, column
from prefine.curating.vectors import Vectors, distances, units, vectors
from prefine.registry import at_least, one_of
from prefine.slate import CHOSEN, REJECTED, Contrast, Slate, group

Select = Callable[[np.ndarray, np.ndarray, int, random.Random], list[int]]
"""(rewards (N,), vectors (N, D), k, random source) -> k of the N."""


def bottom_k(reward_N: np.ndarray, x_ND: np.ndarray, k: int, rng: random.Random) -> list[int]:
    """The k lowest rewards.

    >>> bottom_k(np.array([3.0, 1.0, 2.0]), np.zeros((3, 1)), 2, random.Random(0))
    [1, 2]
    """
    return sorted(sorted(range(len(reward_N)), key=lambda i: (reward_N[i], i))[:k])


def coreset(reward_N: np.ndarray, x_ND: np.ndarray, k: int, rng: random.Random) -> list[int]:
    """The lowest reward of each of k clusters; clusters that stay empty (equal texts) are made up for by the lowest.

    >>> coreset(np.array([3.0, 1.0, 2.0, 0.0]), np.array([[0.0], [0.1], [9.0], [9.1]]), 2, random.Random(0))
    [1, 3]
    """
    clusters = k_means(x_ND, k, rng)
    found = [min(np.flatnonzero(clusters == c), key=lambda i: (reward_N[i], i)) for c in np.unique(clusters)]
    chosen = [int(i) for i in found]
    chosen += [i for i in bottom_k(reward_N, x_ND, len(reward_N), rng) if i not in chosen]
    # in the order of the rewards, so that what is made up for are the lowest of the rest
    rest = sorted(chosen[len(found) :], key=lambda i: (reward_N[i], i))
    return sorted((chosen[: len(found)] + rest)[:k])


def opt_select(reward_N: np.ndarray, x_ND: np.ndarray, k: int, rng: random.Random) -> list[int]:
    """argmin_{|S| = k} sum_i e^{mean r - r_i} min_{j in S} ||x_i - x_j||: bad responses count for more.

    >>> opt_select(np.array([3.0, 1.0, 2.0, 0.0]), np.array([[0.0], [0.1], [9.0], [9.1]]), 2, random.Random(0))
    [1, 3]
    """
    weight_N = np.exp(reward_N.min() - reward_N)  # a common factor of the weights changes nothing
    return k_medoids(distances(x_ND), k, weight_N)


SELECTS: Mapping[str, Select] = {"bottom-k": bottom_k, "coreset": coreset, "opt-select": opt_select}


@dataclass(frozen=True)
class Covering:
    """See ``covering``."""

    select: Select
    k: int
    by: str
    vectors: Vectors

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if len(values) < 2:
                continue
            top = best(values)
            rest = [i for i in values if i != top]
            reward_N, x_KD = np.array([values[i] for i in rest]), units(self.vectors(slate))
            taken = [rest[i] for i in self.select(reward_N, x_KD[rest], min(self.k, len(rest)), rng)]
            taken = [i for i in taken if values[i] < values[top]]
            if taken:
                members = [top, *taken]
                yield group(
                    slate, members, [CHOSEN, *[REJECTED] * len(taken)],
                    score=tuple(values[i] for i in members), mean_score=fmean(values.values()),
                )  # fmt: skip


def covering(select: str = "opt-select", k: int = 7, by: str = "score", vectors_of: str = "words") -> Covering:
    """The best response of a prompt as accepted, and k of the others as rejected, with values for a set contrast.

    select: bottom-k (the lowest), coreset (the lowest of every cluster) or opt-select (those that cover the rest, bad
    ones counting for more). vectors_of: how responses are compared: words, the directory of a sentence encoder, or
    states, the policy's hidden states as a column (a recipe adds it). Values: score of the members, mean_score of all
    responses. A response as good as the best is never rejected.

    >>> from prefine.slate import Candidate, scores
    >>> slate = Slate("?", tuple(map(Candidate, ("good", "a bad answer one", "a bad answer two", "rude"))))
    >>> judged = slate.with_feedback("score", scores([2.0, -0.6, -0.55, -0.5]))
    >>> [c.members for s in SELECTS for c in covering(s, k=2)([judged], random.Random(0))]
    [(0, 1, 2), (0, 1, 3), (0, 1, 3)]
    """
    at_least(1, k=k)
    return Covering(one_of("select", select, SELECTS), k, by, vectors(vectors_of))
