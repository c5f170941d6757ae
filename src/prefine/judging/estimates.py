"""Numeric answers that may be nearly right: mean relative accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from prefine.judging.answers import Extract, final_answer, value
from prefine.judging.checks import extract_by
from prefine.slate import Feedback, Slate, scores

THRESHOLDS = tuple(Fraction(i, 20) for i in range(10, 20))
"""0.5, 0.55, ..., 0.95."""


def mean_relative_accuracy(found: Fraction, gold: Fraction) -> float:
    """The share of thresholds theta with |found - gold| / |gold| < 1 - theta; of a gold 0, whether it is hit.

    >>> mean_relative_accuracy(Fraction(10), Fraction(10)), mean_relative_accuracy(Fraction(13), Fraction(10))
    (1.0, 0.4)
    """
    if gold == 0:
        return float(found == 0)
    error = abs(found - gold) / abs(gold)
    return sum(error < 1 - theta for theta in THRESHOLDS) / len(THRESHOLDS)


@dataclass(frozen=True)
class Estimate:
    """The mean relative accuracy of the final number, -1 where there is none (as a verifier's malformed answer).

    The gold number is the prompt's ``meta[gold]``; without one, or where it is no number, the judge abstains.
    """

    extract: Extract = final_answer
    gold: str = "answer"
    name: str = "verified"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{self.name: scores([self._verdict(s, i) for i in range(len(s))])} for s in slates]

    def _verdict(self, slate: Slate, index: int) -> float | None:
        gold = value(str(slate.meta.get(self.gold, "")))
        if gold is None:
            return None
        answer = self.extract(slate.response(index))
        number = None if answer is None else value(answer)
        return -1.0 if number is None else mean_relative_accuracy(number, gold)


def estimate(answer: str = "auto", gold: str = "answer", name: str = "verified") -> Estimate:
    """The judge of numeric estimates."""
    return Estimate(extract_by(answer), gold, name)
