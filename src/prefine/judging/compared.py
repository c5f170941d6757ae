"""From scores to comparisons and back: Bradley-Terry tables and win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.slate import Feedback, Slate, scores, table

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class BradleyTerryTable:
    """P[i][j] = sigmoid((s_i - s_j)/temperature) from a score column, or from a judge that gives one.

    A response without a score is neither better nor worse than any other: 1/2.

    >>> from prefine.slate import Candidate
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("score", scores([1.0, 1.0]))
    >>> BradleyTerryTable("score")([slate])[0]["preference"].values
    ((0.5, 0.5), (0.5, 0.5))
    """

    scores: str | Judge = "score"
    temperature: float = 1.0
    name: str = "preference"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        if isinstance(self.scores, str):
            return [{self.name: self._table(slate.column(self.scores))} for slate in slates]
        return [{**columns, self.name: self._table(only_scores(columns))} for columns in self.scores(slates)]

    def _table(self, values: Sequence[float | None]) -> Feedback:
        return table([[self._beats(a, b) for b in values] for a in values])

    def _beats(self, a: float | None, b: float | None) -> float:
        return 0.5 if a is None or b is None else sigmoid((a - b) / self.temperature)


@dataclass(frozen=True)
class WinRates:
    """win_i = mean over j of P[i][j], the diagonal (1/2) included, from a table column or a judge of one.

    >>> from prefine.slate import Candidate
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("preference", table([[0.5, 1], [0, 0.5]]))
    >>> WinRates()([slate])[0]["win"].values
    (0.75, 0.25)
    """

    table: str | Judge = "preference"
    name: str = "win"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        if isinstance(self.table, str):
            return [{self.name: self._rates(slate.column(self.table))} for slate in slates]
        return [{**columns, self.name: self._rates(only_table(columns))} for columns in self.table(slates)]

    def _rates(self, P: Sequence[Sequence[float]]) -> Feedback:
        return scores([sum(row) / len(row) for row in P])


def only_scores(columns: Columns) -> tuple[float | None, ...]:
    """The values of the first score column."""
    return _first(columns, "score")


def only_table(columns: Columns) -> tuple[tuple[float, ...], ...]:
    """The values of the first table column."""
    return _first(columns, "table")


def _first(columns: Columns, kind: str) -> tuple[Any, ...]:
    for column in columns.values():
        if column.kind == kind:
            return column.values
    raise InputError(
        f"the judge gives no {kind} column (it gives: {', '.join(columns) or 'nothing'})",
        remedy=f"use a judge that gives a {kind}",
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
