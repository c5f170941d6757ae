"""What a judge is: a function that looks at slates and gives columns of feedback.

A judge abstains with None; abstentions are counted and reported by ``run.judge``, never dropped in silence.
Randomness inside a judge is derived from its own seed and the slate, so that judging again gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prefine.artifacts import PolicyHandle
from prefine.slate import Feedback, Slate, scores, table


class Judge(Protocol):
    """Slates in, one mapping {column name: feedback} a slate out. Frozen dataclasses make good judges."""

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]: ...


@dataclass(frozen=True)
class Scored:
    """A judge from a function of one slate that gives one number a candidate (or None to abstain)."""

    function: Callable[[Slate], Sequence[float | None]]
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{self.name: scores(self.function(slate))} for slate in slates]


@dataclass(frozen=True)
class Compared:
    """A judge from a function of one slate that gives the K x K table of win probabilities."""

    function: Callable[[Slate], Sequence[Sequence[float]]]
    name: str = "preference"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{self.name: table(self.function(slate))} for slate in slates]


def spoken_by(judge: Judge, policy: PolicyHandle) -> Judge:
    """The judge with this policy as its speaker, for judges that are the policy itself; others as they are."""
    bind = getattr(judge, "spoken_by", None)
    bound: Judge = judge if bind is None else bind(policy)
    return bound
