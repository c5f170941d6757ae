"""Annotators: people to practise on, made from a gold judge.

Each is a judge that adds the column "score", what this annotator would say, and is wrong in one known way.
They are frozen dataclasses, and what is random about them is decided by their seed, the slate's id and the
texts of its candidates: asking again gives the same answer, asking about other responses a fresh one.

A score is what curators turn into labels, so noise is defined by its effect on them: see ``Noisy``.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.slate import Feedback, Slate, scores, table

Columns = Mapping[str, Feedback]


def dice(name: str, seed: int, slate: Slate) -> random.Random:
    """The random source of one annotator for one slate."""
    texts = [slate.response(i) for i in range(len(slate))]
    key = json.dumps([name, seed, slate.id, texts], ensure_ascii=False)
    return random.Random(hashlib.sha256(key.encode()).hexdigest())


def single(judge: Judge, slates: Sequence[Slate]) -> list[tuple[float | None, ...]]:
    """The values of the one score column a judge gives (the first, should it give more)."""
    return [next(c.values for c in columns.values() if c.kind == "score") for columns in judge(slates)]


@dataclass(frozen=True)
class Perfect:
    """Says the gold reward itself."""

    gold: Judge

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{"score": scores(values)} for values in single(self.gold, slates)]


@dataclass(frozen=True)
class Noisy:
    """Gets a pair the wrong way round with probability ``rate``.

    With probability ``2 * rate`` the annotator does not look: the true scores are handed out to the
    candidates at random. Of two candidates with different gold scores, either is then above the other half
    the time, so any pair's label flips with probability exactly ``rate``: for two candidates as for many,
    and for the best against the worst of a slate as for a random pair. A rate of 0.5 is pure noise. (Where
    several candidates share a score, a pair may become a tie instead, so fewer labels flip.)
    """

    gold: Judge
    rate: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 0.5:
            raise InputError(
                f"a noisy annotator cannot be wrong with a rate of {self.rate}", remedy="use 0 (never) to 0.5"
            )

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [
            {"score": scores(self._said(slate, values))} for slate, values in zip(slates, single(self.gold, slates))
        ]

    def _said(self, slate: Slate, values: Sequence[float | None]) -> Sequence[float | None]:
        rng = dice("noisy", self.seed, slate)
        if rng.random() >= 2 * self.rate:
            return values
        known = [i for i, v in enumerate(values) if v is not None]
        said = list(values)
        for i, j in zip(known, rng.sample(known, len(known))):
            said[i] = values[j]
        return said


@dataclass(frozen=True)
class LengthBiased:
    """Likes length: ``score = gold + per_word * words``. A negative ``per_word`` likes brevity."""

    gold: Judge
    per_word: float = 0.05

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [
            {
                "score": scores(
                    [
                        None if v is None else v + self.per_word * len(slate.response(i).split())
                        for i, v in enumerate(values)
                    ]
                )
            }
            for slate, values in zip(slates, single(self.gold, slates))
        ]


@dataclass(frozen=True)
class Several:
    """Several annotators who disagree. Each slate is shown to one of them, drawn by ``shares``.

    Adds "score" (what that annotator says), "annotator" (who it was, on every candidate) and "score:NAME"
    for each of them, for methods that have everybody's opinion.
    """

    members: tuple[tuple[str, Judge], ...]
    shares: tuple[float, ...] = ()
    seed: int = 0

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        said = {name: single(judge, slates) for name, judge in self.members}
        return [
            self._columns(slate, {name: values[s] for name, values in said.items()}) for s, slate in enumerate(slates)
        ]

    def _columns(self, slate: Slate, said: Mapping[str, Sequence[float | None]]) -> Columns:
        names = list(said)
        who = dice("several", self.seed, slate).choices(names, self.shares or None)[0]
        return {
            "score": scores(said[who]),
            "annotator": Feedback("id", (who,) * len(slate)),
            **{f"score:{name}": scores(values) for name, values in said.items()},
        }


@dataclass(frozen=True)
class Majority:
    """A committee that votes on every pair, one member a judge: natural preferences that can be cyclic.

    P[i][j] is the share of members who score i above j, a tie being half a vote. Three members who rank
    three responses abc, bca, cab prefer a to b, b to c and c to a (Condorcet). Adds "preference" (P) and
    "score", the mean of P's row over the other candidates.
    """

    members: tuple[Judge, ...]

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        said = [single(judge, slates) for judge in self.members]
        return [_of_table(self._votes([values[s] for values in said])) for s in range(len(slates))]

    def _votes(self, said: Sequence[Sequence[float | None]]) -> list[list[float]]:
        K, M = len(said[0]), len(said)
        return [[sum(_wins(v[i], v[j]) for v in said) / M for j in range(K)] for i in range(K)]


@dataclass(frozen=True)
class Cyclic:
    """A table of preferences between kinds of response, for instance rock, paper and scissors.

    ``kind_of`` gives one score column whose values are kinds 0 .. len(table) - 1; P[i][j] is
    ``table[kind of i][kind of j]``. Adds "preference" and "score", the mean of P's row over the others.
    """

    kind_of: Judge
    table: tuple[tuple[float, ...], ...] = ((0.5, 0.9, 0.1), (0.1, 0.5, 0.9), (0.9, 0.1, 0.5))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [_of_table(self._table(kinds)) for kinds in single(self.kind_of, slates)]

    def _table(self, kinds: Sequence[float | None]) -> list[list[float]]:
        return [[0.5 if a is None or b is None else self.table[int(a)][int(b)] for b in kinds] for a in kinds]


@dataclass(frozen=True)
class BradleyTerry:
    """Bradley-Terry preferences of a reward: P[i][j] = sigmoid(scale * (gold_i - gold_j)).

    With ``sampled=True`` every pair is compared once and P holds the outcomes, 0 or 1 (the diagonal is
    always 1/2), as from one person's labels. Adds "preference" and "score", the mean of P's row over the
    others; a candidate without a gold score ties with everybody.
    """

    gold: Judge
    scale: float = 1.0
    sampled: bool = False
    seed: int = 0

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [_of_table(self._table(slate, values)) for slate, values in zip(slates, single(self.gold, slates))]

    def _table(self, slate: Slate, values: Sequence[float | None]) -> list[list[float]]:
        rng = dice("bradley-terry", self.seed, slate)
        K = len(values)
        P = [[0.5] * K for _ in range(K)]
        for i in range(K):
            for j in range(i + 1, K):
                a, b = values[i], values[j]
                p = 0.5 if a is None or b is None else _sigmoid(self.scale * (a - b))
                P[i][j] = float(rng.random() < p) if self.sampled else p
                P[j][i] = 1.0 - P[i][j]
        return P


def _of_table(P: Sequence[Sequence[float]]) -> Columns:
    K = len(P)
    mean = [sum(p for j, p in enumerate(row) if j != i) / (K - 1) if K > 1 else 0.5 for i, row in enumerate(P)]
    return {"preference": table(P), "score": scores(mean)}


def _wins(a: float | None, b: float | None) -> float:
    return 0.5 if a is None or b is None or a == b else float(a > b)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
