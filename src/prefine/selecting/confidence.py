"""Selectors by confidence bounds of the implicit reward: where the best case and the worst case lie furthest apart.

    m(y), s(y)   mean and deviation of log pi(y|x) over draws of dropout on the last layer;  g(y) = log ref(y|x)

Active exploration (arXiv 2312.00267): offline among labelled pairs, online among prompts by bounds of the Borda value.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefine.curating.reading import role_of
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.registry import at_least, between, positive
from prefine.selecting.base import Budget, Row
from prefine.selecting.features import Doubt
from prefine.selecting.ranking import largest
from prefine.slate import Contrast, Slate, slate_of


@dataclass(frozen=True)
class UpperConfidence:
    """max_k [ m_k + c s_k - g_k ] - max_k [ m_k - c s_k - g_k ] over a row's responses, largest first."""

    budget: Budget
    width: float = 2.0
    draws: int = 10
    rate: float = 0.05

    def view(self, policy: Any, reference: Any) -> Judge:
        return Doubt(policy, reference, self.draws, self.rate)

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> list[Row]:
        kept = list(rows)
        values = [self.value(*columns(row)) for row in kept]
        return [kept[i] for i in largest(values, self.budget.of(len(kept)), rng)]

    def value(self, m_K: np.ndarray, s_K: np.ndarray, g_K: np.ndarray) -> float:
        """How far apart the most that the best response may be worth lies from the least it is worth.

        >>> UpperConfidence(Budget.read(1)).value(*(np.array(x) for x in ([1.0, 1.0], [0.5, 0.5], [0.0, 2.0])))
        2.0
        """
        return float((m_K + self.width * s_K - g_K).max() - (m_K - self.width * s_K - g_K).max())


@dataclass(frozen=True)
class Uncertain(UpperConfidence):
    """The mean variance of a row's responses, largest first: uncertainty without exploration (US)."""

    def value(self, m_K: np.ndarray, s_K: np.ndarray, g_K: np.ndarray) -> float:
        return float((s_K**2).mean())


@dataclass(frozen=True)
class Borda(UpperConfidence):
    """Prompts by how open the Borda value of their best response is, each with the pair to compare.

    Candidates of the role ``rivals`` are the reference's samples a'_j, the others the policy's a_i;
    P_ij = sigma( beta [ d(a_i) - d(a'_j) ] ), d = m - g, at the upper bound of a_i and the lower of a'_j (optimistic)
    or the other way round; B_i = mean_j P_ij. Kept are the largest max_i B_i^upper - max_i B_i^lower, and of each the
    response argmax B^upper beside one of the rivals at random.
    """

    beta: float = 0.1
    rivals: str = "reference"

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> list[Row]:
        kept = [slate_of(row) for row in rows]
        split = [sides(slate, self.rivals) for slate in kept]
        bounds = [self.bounds(*columns(slate), *side) for slate, side in zip(kept, split, strict=True)]
        chosen = largest([float(up.max() - low.max()) for up, low in bounds], self.budget.of(len(kept)), rng)
        return [self._pair(kept[i], bounds[i][0], *split[i], rng) for i in chosen]

    def bounds(
        self, m_K: np.ndarray, s_K: np.ndarray, g_K: np.ndarray, own: Sequence[int], others: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Upper and lower Borda values of the policy's own samples."""
        d_K, own_, others_ = m_K - g_K, list(own), list(others)
        wide_K = self.width * s_K
        high = (d_K + wide_K)[own_][:, None] - (d_K - wide_K)[others_][None]
        low = (d_K - wide_K)[own_][:, None] - (d_K + wide_K)[others_][None]
        return _sigmoid(self.beta * high).mean(1), _sigmoid(self.beta * low).mean(1)

    def _pair(
        self, slate: Slate, upper: np.ndarray, own: Sequence[int], others: Sequence[int], rng: random.Random
    ) -> Slate:
        best = own[int(np.argmax(upper))]
        differing = [i for i in others if slate.response(i) != slate.response(best)]
        return slate.take([best, rng.choice(differing or others)])


@dataclass(frozen=True)
class OneOfEach:
    """Of every slate one of the policy's samples beside one of the rivals', at random (uniref); none is left out."""

    rivals: str = "reference"

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> Iterator[Slate]:
        for slate in map(slate_of, rows):
            own, others = sides(slate, self.rivals)
            yield slate.take([rng.choice(own), rng.choice(others)])


def columns(row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """m, s and g of a row's responses (of a contrast, of its members)."""
    slate = slate_of(row)
    at = list(row.members) if isinstance(row, Contrast) else range(len(slate))
    m, s, g = (np.array([slate.column(name)[i] for i in at], dtype=float) for name in ("mean", "deviation", "base"))
    return m, s, g


def sides(slate: Slate, rivals: str) -> tuple[list[int], list[int]]:
    """The policy's own samples, and those of the rivals' role."""
    others = [i for i in slate.leaves() if role_of(slate, i) == rivals]
    own = [i for i in slate.leaves() if i not in others]
    if not own or not others:
        raise InputError(
            f"slate {slate.id!r} has {len(own)} samples of the policy and {len(others)} of the reference",
            remedy="choose a selector that needs none (upper-confidence, uncertain), or `prefine run ae-dpo --feedback "
            f'online`, which samples from both; in a recipe: run.sample(reference, slates, role="{rivals}")',
        )
    return own, others


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def upper_confidence(
    budget: float | str | Budget = "33%", width: float = 2.0, draws: int = 10, rate: float = 0.05
) -> UpperConfidence:
    """Rows whose best response may be worth most above what it is surely worth (AE-DPO, arXiv 2312.00267).

    width: deviations that a bound lies away. draws, rate: of dropout on the last layer.
    """
    return UpperConfidence(Budget.read(budget), *_checked(width, draws, rate))


def uncertain(budget: float | str | Budget = "33%", draws: int = 10, rate: float = 0.05) -> Uncertain:
    """Rows whose log-probabilities vary most under dropout (US-DPO, the uncertainty baseline)."""
    return Uncertain(Budget.read(budget), *_checked(0.0, draws, rate))


def borda(
    budget: float | str | Budget = "33%", beta: float = 0.1, width: float = 2.0, draws: int = 10, rate: float = 0.05
) -> Borda:
    """Prompts whose best response has the most open Borda value against the reference (AE-Borda-DPO), with its pair."""
    positive(beta=beta)
    return Borda(Budget.read(budget), *_checked(width, draws, rate), beta)


def one_of_each(rivals: str = "reference") -> OneOfEach:
    """Every slate with one of its samples and one of the reference's."""
    return OneOfEach(rivals)


def _checked(width: float, draws: int, rate: float) -> tuple[float, int, float]:
    at_least(0, width=width)
    at_least(2, draws=draws)
    between(0, 1, rate=rate)
    return width, draws, rate
