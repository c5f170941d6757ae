"""What a teacher makes of responses it did not write: their likelihood, its choices among them, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefine.judging.base import Judge
from prefine.judging.choices import choices
from prefine.judging.models import NO_LIMITS, everyone, live, whole
from prefine.policies.base import Limits
from prefine.registry import between
from prefine.slate import Feedback, Slate, scores

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class Likelihood:
    """log p(y|x)/|y| of every response under a model: token means, or with ``mean=False`` sums."""

    model: Any
    mean: bool = True
    name: str = "score"
    limits: Limits = NO_LIMITS

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        from prefine.engine.score import score_contrasts

        groups = [everyone(slate) for slate in slates if len(slate)]
        scored = iter(score_contrasts(live(self.model), groups, self.limits) if groups else [])
        return [{self.name: scores([self._of(logp) for logp in (next(scored) if len(s) else ())])} for s in slates]

    def _of(self, logp_T: Any) -> float | None:
        if not len(logp_T):
            return None  # nothing was said, or nothing of it fits in the model's window
        return whole(logp_T) / (len(logp_T) if self.mean else 1)


@dataclass(frozen=True)
class Mixed:
    """score = weight * one judge's score + (1 - weight) * another's; None where either abstains.

    Both judges' columns are kept under their own names. A judge without weight is not asked.
    """

    first: Judge
    second: Judge
    weight: float
    columns: tuple[str, str] = ("likelihood", "choice")
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        parts = [(w, judge, own) for w, judge, own in self._parts() if w > 0]
        said = [(w, own, judge(slates)) for w, judge, own in parts]
        found: list[Columns] = []
        for s in range(len(slates)):
            columns: dict[str, Feedback] = {}
            for _, _, of in said:
                columns |= of[s]
            values = zip(*([(w, v) for v in of[s][own].values] for w, own, of in said), strict=True)
            found.append({**columns, self.name: scores([_sum(value) for value in values])})
        return found

    def _parts(self) -> tuple[tuple[float, Judge, str], ...]:
        return (self.weight, self.first, self.columns[0]), (1 - self.weight, self.second, self.columns[1])


def _sum(parts: Sequence[tuple[float, float | None]]) -> float | None:
    known = [w * v for w, v in parts if v is not None]
    return sum(known) if len(known) == len(parts) else None


def likelihood(model: Any, mean: bool = True, name: str = "score") -> Likelihood:
    """A model's log-likelihood of every response, a token."""
    return Likelihood(model, mean, name)


def teacher(model: Any, likelihood_weight: float = 0.0, both: bool = True) -> Mixed:
    """The reward of a teacher (PAD, arXiv 2502.14272): t = a log p(y)/|y| + (1 - a) log of how often it chooses y.

    Columns "likelihood" and "choice" (as far as they have weight) and "score", t.
    """
    between(0, 1.0000001, likelihood_weight=likelihood_weight)
    return Mixed(likelihood(model, name="likelihood"), choices(model, both=both, score="choice"), likelihood_weight)
