"""Selectors by a number a row: any at all, the top by a column, the highest entropy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.judging.models import everyone, live, whole
from prefine.policies.base import Limits
from prefine.registry import one_of
from prefine.selecting.base import Budget
from prefine.selecting.ranking import RANKINGS
from prefine.slate import Contrast, Feedback, Slate, scores, slate_of


@dataclass(frozen=True)
class AtRandom:
    """The baseline of every other. What was taken before (further artifacts) is of no matter to it."""

    budget: Budget

    def __call__(self, rows: Iterable[Any], *more: Any) -> list[Any]:
        kept, rng = list(rows), more[-1]
        return [kept[i] for i in RANKINGS["random"]([None] * len(kept), self.budget.of(len(kept)), rng)]


def spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


SUMMARIES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "max": max, "min": min, "mean": fmean, "spread": spread,
}  # fmt: skip
"""How the numbers of a row's responses become one."""


@dataclass(frozen=True)
class ByScore:
    """The rows first in the ranking by a column's numbers; rows of which nothing is known come last."""

    budget: Budget
    by: str = "score"
    of: str = "max"
    keep: str = "largest"

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> list[Any]:
        kept = list(rows)
        values = [self.value(row) for row in kept]
        return [kept[i] for i in RANKINGS[self.keep](values, self.budget.of(len(kept)), rng)]

    def value(self, row: Any) -> float | None:
        """The row's number: a value of its own, or its responses' summed up."""
        if isinstance(row, Contrast) and isinstance(row.values.get(self.by), int | float):
            return float(row.values[self.by])  # type: ignore[arg-type]
        slate = slate_of(row)
        if self.by not in slate.feedback:
            raise InputError(
                f"the selector reads {self.by!r}, which nobody has said of these rows yet",
                remedy="name by=COLUMN that the rows have before they are judged, or a selector that asks the models "
                "alone: random, small-margin, certainty, entropy, d-optimal",
            )
        known = [float(v) for v in (slate.column(self.by)[i] for i in slate.leaves()) if v is not None]
        return SUMMARIES[self.of](known) if known else None


@dataclass(frozen=True)
class Likelihood:
    """A judge: log pi(y|x) of every response, token sums, at temperature 1 whatever it was sampled at."""

    policy: Any
    name: str = "logp"
    limits: Limits = Limits()  # noqa: RUF009 (frozen)

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        from prefine.engine.score import score_contrasts

        found = iter(score_contrasts(live(self.policy), [everyone(s) for s in slates if len(s)], self.limits))
        return [{self.name: scores([whole(logp_T) for logp_T in next(found)] if len(s) else [])} for s in slates]


@dataclass(frozen=True)
class ByEntropy(ByScore):
    """H(x) = -1/N sum_n log pi(y_n|x), y_n ~ pi at temperature 1: the policy's entropy at a prompt, largest first.

    Token sums, no division by length. The minus matters: ranked by the mean log-likelihood itself, a public
    reimplementation keeps the prompts the policy is surest of.
    """

    by: str = "logp"

    def view(self, policy: Any, reference: Any) -> Judge:
        return Likelihood(policy, self.by)

    def value(self, row: Any) -> float | None:
        slate = slate_of(row)
        known = [float(v) for v in (slate.column(self.by)[i] for i in slate.leaves()) if v is not None]
        return -fmean(known) if known else None


def at_random(budget: float | str | Budget = "50%") -> AtRandom:
    """Any rows, all equally likely: what the others are measured against."""
    return AtRandom(Budget.read(budget))


def top(budget: float | str | Budget = "50%", by: str = "score", of: str = "max", keep: str = "largest") -> ByScore:
    """Top rows by a column, summed up over the responses.

    of: max, min, mean or spread. keep: largest, smallest, middle, tails or random.
    """
    one_of("of", of, SUMMARIES)
    one_of("keep", keep, RANKINGS)
    return ByScore(Budget.read(budget), by, of, keep)


def entropy(budget: float | str | Budget = "50%", keep: str = "largest") -> ByEntropy:
    """Prompts on which the policy's samples are least likely: the largest estimated entropy (arXiv 2402.08114)."""
    one_of("keep", keep, RANKINGS)
    return ByEntropy(Budget.read(budget), keep=keep)
