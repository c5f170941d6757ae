"""A judge in the role a recipe asks for: one that scores, one that compares, one that checks answers.

Judges name their columns as they like; recipes read "score", "preference" and "verified". Columns the judge
gave are kept; what is missing is made from what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefine.errors import InputError
from prefine.judging import BradleyTerryTable, WinRates
from prefine.judging.base import Judge, spoken_by
from prefine.slate import Feedback, Slate

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class InRole:
    """The judge with the column of a role added where it has none of that name."""

    judge: Judge
    role: str

    @property
    def __name__(self) -> str:
        """What messages and progress call it: as they call the judge itself."""
        return str(getattr(self.judge, "__name__", None) or type(self.judge).__name__)

    def spoken_by(self, policy: Any) -> InRole:
        """For judges that are the policy itself."""
        return InRole(spoken_by(self.judge, policy), self.role)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        found = self.judge(slates)
        return [_with(slate, columns, self.role) for slate, columns in zip(slates, found, strict=True)]


def _with(slate: Slate, columns: Columns, role: str) -> Columns:
    if role in columns:
        return columns
    return {**columns, role: MAKE[role](slate, columns)}


def _score(slate: Slate, columns: Columns) -> Feedback:
    """Another score under the usual name, else the mean win rate in a table."""
    own = _of_kind(columns, "score") or _of_kind(columns, "label")
    if own is not None:
        return Feedback("score", tuple(None if v is None else float(v) for v in own.values))
    table = _of_kind(columns, "table")
    if table is None:
        raise _useless(columns, "scores or compares")
    judged = Slate(slate.prompt, slate.candidates, {"preference": table})
    return next(iter(WinRates("preference")([judged])[0].values()))


def _preference(slate: Slate, columns: Columns) -> Feedback:
    """Another table under the usual name, else Bradley-Terry of the scores."""
    table = _of_kind(columns, "table")
    if table is not None:
        return table
    judged = Slate(slate.prompt, slate.candidates, {"score": _score(slate, columns)})
    return BradleyTerryTable("score")([judged])[0]["preference"]


def _verified(slate: Slate, columns: Columns) -> Feedback:
    return _score(slate, columns)


MAKE: Mapping[str, Callable[[Slate, Columns], Feedback]] = {
    "score": _score,
    "preference": _preference,
    "verified": _verified,
}


def _of_kind(columns: Columns, kind: str) -> Feedback | None:
    return next((c for c in columns.values() if c.kind == kind), None)


def _useless(columns: Columns, what: str) -> InputError:
    there = ", ".join(f"{name} ({c.kind})" for name, c in columns.items()) or "nothing"
    return InputError(f"the judge gives {there}, nothing that {what} responses", remedy="use another --judge")
