"""Greedy D-optimal design: the rows that would pin a log-linear policy down best (arXiv 2503.01076).

With phi = phi(x, y1) - phi(x, y2) and pi(y|x) ~ exp(phi(x, y) . theta), DPO's loss is a logistic regression with an
offset, and what a label of a row adds to its Hessian is v v^T,

    v = beta sqrt(mu (1 - mu)) phi,      mu = sigma( beta (r(x, y1) - r(x, y2)) ),   r = log pi - log ref,

so the row to ask next is argmax log det(H + v v^T) = argmax v^T H^-1 v. Without the factor beta sqrt(mu (1 - mu)) it
is the design of a linear model (APO).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefine.judging.base import Judge
from prefine.judging.models import implicit_reward
from prefine.registry import at_least, positive
from prefine.selecting.base import Budget, Row, Views, pairs_of, with_pair
from prefine.selecting.features import Features
from prefine.slate import slate_of


@dataclass
class Inverse:
    """H^-1, kept up to date in O(D^2) by Sherman and Morrison while H grows by v v^T.

    >>> seen = Inverse(np.eye(2) / 0.5); seen.add(np.array([1.0, 0.0]))
    >>> seen.h_DD.round(4).tolist()
    [[0.6667, 0.0], [0.0, 2.0]]
    """

    h_DD: np.ndarray

    def add(self, v_D: np.ndarray) -> None:
        """(H + v v^T)^-1 = H^-1 - H^-1 v v^T H^-1 / (1 + v^T H^-1 v)."""
        hv_D = self.h_DD @ v_D
        self.h_DD = self.h_DD - np.outer(hv_D, hv_D) / (1 + v_D @ hv_D)

    def gain(self, v_ND: np.ndarray) -> np.ndarray:
        """(N,) v^T H^-1 v; log det grows by log(1 + it)."""
        return np.einsum("nd,de,ne->n", v_ND, self.h_DD, v_ND)


def greedy(
    v_ND: np.ndarray,
    k: int,
    inverse: Inverse,
    *,
    owner_N: np.ndarray | None = None,
    subset: int | None = None,
    rng: random.Random | None = None,
) -> list[int]:
    """k indices, one after the other, each the largest gain given those before; ties go to the first.

    ``owner_N``: of those with one owner (pairs of one prompt) at most one is taken. ``subset``: every step looks at a
    random so many of what is left. ``inverse`` is changed.
    """
    left = np.ones(len(v_ND), dtype=bool)
    taken: list[int] = []
    for _ in range(k):
        open_ = np.flatnonzero(left)
        if not len(open_):
            break
        if subset is not None and len(open_) > subset:
            open_ = np.sort((rng or random.Random(0)).sample(open_.tolist(), subset))
        pick = int(open_[np.argmax(inverse.gain(v_ND[open_]))])
        inverse.add(v_ND[pick])
        left &= np.arange(len(v_ND)) != pick if owner_N is None else owner_N != owner_N[pick]
        taken.append(pick)
    return taken


@dataclass(frozen=True)
class DOptimal:
    """Greedily the pairs that add most to log det of DPO's Hessian; of every prompt at most one pair.

    Called with further artifacts (``run.select((pool, taken), selector)``), H starts with what was taken before, as
    it was seen then: their columns are still on them.
    """

    budget: Budget
    beta: float = 1.0
    gamma: float = 0.01
    weighted: bool = True
    subset: int | None = 256
    dimensions: int = 128
    of: str = "reference"

    def view(self, policy: Any, reference: Any) -> Judge:
        shown = {"policy": policy, "reference": reference}[self.of]  # the reference's features stay what they are
        features = Features(shown, self.dimensions)
        return Views((features, implicit_reward(policy, reference))) if self.weighted else features

    def __call__(self, rows: Iterable[Any], *more: Any) -> list[Row]:
        *taken, rng = more
        pool = [(row, pair) for row in rows for pair in pairs_of(row)]
        if not pool:
            return []
        v_ND = np.array([self.vector(row, pair) for row, pair in pool])
        inverse = Inverse(np.eye(v_ND.shape[1]) / self.gamma)
        for row in (row for part in taken for row in part):
            inverse.add(self.vector(row, pairs_of(row)[0]))
        owners: dict[int, int] = {}
        owner_N = np.array([owners.setdefault(id(row), len(owners)) for row, _ in pool])
        k = self.budget.of(len(owners))
        found = greedy(v_ND, k, inverse, owner_N=owner_N, subset=self.subset, rng=rng)
        return [with_pair(*pool[i]) for i in sorted(found)]

    def vector(self, row: Row, pair: tuple[int, int]) -> np.ndarray:
        """v of one pair."""
        slate = slate_of(row)
        first, second = (np.asarray(slate.column("features")[i], dtype=float) for i in pair)
        if not self.weighted:
            return first - second
        reward = slate.column("implicit")
        return curvature(self.beta, reward[pair[0]] - reward[pair[1]]) * (first - second)


def curvature(beta: float, difference: float) -> float:
    """beta sqrt(mu (1 - mu)) with mu = sigma(beta d): beta / (2 cosh(beta d / 2)).

    >>> curvature(2.0, 0.0)
    1.0
    """
    return beta / (2 * float(np.cosh(min(abs(beta * difference) / 2, 350.0))))


def log_det(v_ND: np.ndarray, chosen: Sequence[int], gamma: float) -> float:
    """log det(gamma I + sum over the chosen of v v^T): what the greedy choice climbs."""
    v = v_ND[list(chosen)]
    return float(np.linalg.slogdet(gamma * np.eye(v_ND.shape[1]) + v.T @ v)[1])


def d_optimal(
    budget: float | str | Budget = "50%",
    beta: float = 1.0,
    gamma: float = 0.01,
    weighted: bool = True,
    subset: int = 256,
    dimensions: int = 128,
) -> DOptimal:
    """The pairs that together pin the policy down best: greedy D-optimal over its last layer's features.

    beta: DPO's. gamma: the ridge that H starts with. weighted: false leaves out what the policy says already (APO).
    subset: pairs looked at in every step, 0 for all. dimensions: features are projected at random to at most so many.
    """
    positive(beta=beta, gamma=gamma)
    at_least(0, subset=subset)
    at_least(1, dimensions=dimensions)
    return DOptimal(Budget.read(budget), beta, gamma, weighted, subset or None, dimensions)


def doubling(total: int, first: int) -> list[int]:
    """How many to ask before every fit: as many as there are labels, once there are ``first``.

    >>> doubling(20, 4), doubling(3, 8)
    ([4, 4, 8, 4], [3])
    """
    steps = [min(first, total)]
    while sum(steps) < total:
        steps.append(min(sum(steps), total - sum(steps)))
    return steps
