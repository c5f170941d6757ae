"""What a judge is: a function that looks at slates and gives columns of feedback.

A judge abstains with None; abstentions are counted and reported by ``run.judge``, never dropped in silence.
Randomness inside a judge is derived from its own seed and the slate, so that judging again gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
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


def asked_as(judge: Judge, policy: PolicyHandle) -> str:
    """The ``role`` of its judgements in ``run.judge``: a "view" where the policy itself speaks (its own opinion is
    nobody's label), else "annotator"."""
    bound = spoken_by(judge, policy)
    return "annotator" if bound is judge or bound == judge else "view"


def compares(judge: object) -> bool:
    """Whether it only compares responses with each other, so that it has nothing to say of one alone."""
    inner = getattr(judge, "judge", None)
    return bool(getattr(judge, "compares", False)) or (inner is not None and compares(inner))


def labels_given(judged: Iterable[Slate], before: Collection[str]) -> dict[str, int]:
    """The meter: {"labels", "abstained"} over judged slates, and {"comparisons" among both, "unread"} where not 0.

    A label is a value a candidate, or a comparison for each pair of a table. Counted is the first of the columns that
    are new; those after it say more about the same answers: NAME_read how many verdicts there were (in a table, 0 for
    a pair abstains), NAME_unread how many could not be read.
    """
    counts = {"labels": 0, "abstained": 0, "comparisons": 0, "unread": 0}
    for slate in judged:
        name = next((name for name in slate.feedback if name not in before), None)
        if name is None:
            continue
        answers, unread = list(_answers(slate, name)), slate.feedback.get(f"{name}_unread")
        counts["labels"] += sum(answers)
        counts["abstained"] += len(answers) - sum(answers)
        if slate.feedback[name].kind == "table":
            counts["comparisons"] += len(answers)
        if unread is not None:
            counts["unread"] += round(sum(_once(unread)))
    return {name: n for name, n in counts.items() if n or name in ("labels", "abstained")}


def _answers(slate: Slate, name: str) -> Iterator[bool]:
    """Of every question asked for this column, whether it was answered."""
    column, read = slate.feedback[name], slate.feedback.get(f"{name}_read")
    if column.kind != "table":
        yield from (v is not None for v in column.values)
        return
    known = read.values if read is not None and read.kind == "table" else None
    yield from (known is None or known[i][j] > 0 for i, j in combinations(range(len(slate)), 2))


def _once(column: Feedback) -> Iterator[float]:
    """The numbers of a column, of a table those above the diagonal."""
    if column.kind == "table":
        yield from (row[j] for i, row in enumerate(column.values) for j in range(i + 1, len(row)))
    else:
        yield from (v for v in column.values if v is not None)
