"""Any score divided by the length of the response it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefine.judging.base import Judge
from prefine.judging.checks import LENGTHS
from prefine.judging.compared import only_scores
from prefine.registry import one_of
from prefine.slate import Feedback, Slate, scores


@dataclass(frozen=True)
class PerToken:
    """What a judge scores, divided by the tokens (words, characters) of the response; None stays None."""

    judge: Judge
    unit: str = "tokens"
    name: str = "a_token"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        measure = one_of("unit", self.unit, LENGTHS)
        return [
            {self.name: scores([None if v is None else v / max(1, measure(slate, i)) for i, v in enumerate(of)])}
            for slate, of in zip(slates, map(only_scores, self.judge(slates)), strict=True)
        ]


def per_token(judge: Judge, unit: str = "tokens", name: str = "a_token") -> PerToken:
    """A judge whose scores are divided by the length.

    >>> from prefine.judging.checks import Length
    >>> from prefine.slate import Candidate
    >>> per_token(Length("characters"), "words")([Slate("?", (Candidate("ab cd"),))])[0]["a_token"].values
    (2.5,)
    """
    return PerToken(judge, unit, name)
