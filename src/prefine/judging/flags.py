"""A judge's scores as yes-or-no labels: which responses contain an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefine.judging.base import Judge, spoken_by
from prefine.judging.compared import only_scores
from prefine.slate import Feedback, Slate, labels


@dataclass(frozen=True)
class Flagged:
    """True for every response that a judge scores below ``at``, False at or above it; None where it abstains.

    >>> from prefine.judging.base import Scored
    >>> from prefine.slate import Candidate
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b")))
    >>> Flagged(Scored(lambda slate: [0.2, 0.9]))([slate])[0]["hallucinated"].values
    (True, False)
    """

    judge: Judge
    at: float = 0.5
    name: str = "hallucinated"

    def spoken_by(self, policy: object) -> Flagged:
        """For judges that are the policy itself."""
        return Flagged(spoken_by(self.judge, policy), self.at, self.name)  # type: ignore[arg-type]

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [
            {self.name: labels([None if v is None else v < self.at for v in only_scores(columns)])}
            for columns in self.judge(slates)
        ]
