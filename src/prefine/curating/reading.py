"""What curators read off a slate: finished responses, their numbers in a column, their lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prefine.slate import Contrast, Slate, pair


def column(slate: Slate, by: str) -> dict[int, float]:
    """Finished response -> its number in a column; those that the judge abstained on are left out.

    >>> from prefine.slate import Candidate, scores
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("score", scores([0.5, None]))
    >>> column(slate, "score")
    {0: 0.5}
    """
    values = slate.column(by)
    return {i: float(values[i]) for i in slate.leaves() if values[i] is not None}


def role_of(slate: Slate, index: int) -> str:
    """Which part the policy that wrote a response played ("current" unless it says so)."""
    return str(slate.candidates[index].origin.get("role", "current"))


def of_role(slate: Slate, values: dict[int, float], role: str | None) -> dict[int, float]:
    """Only the responses of one role; all of them for None."""
    return {i: v for i, v in values.items() if role is None or role_of(slate, i) == role}


def characters(slate: Slate, index: int) -> int:
    return len(slate.response(index))


def tokens(slate: Slate, index: int) -> int:
    """Length in tokens as sampled; words, where somebody wrote it and no tokens are known."""
    parts = [slate.candidates[i] for i in slate.path(index)]
    return sum(len(c.text.split()) if c.tokens is None else len(c.tokens) for c in parts)


def best(values: Mapping[int, float]) -> int:
    """The first response with the highest number."""
    return max(values, key=lambda i: (values[i], -i))


def worst(values: Mapping[int, float]) -> int:
    """The first response with the lowest number."""
    return min(values, key=lambda i: (values[i], i))


def carried(slate: Slate, members: Sequence[int], names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Columns as values of a contrast's members (an abstention becomes NaN, which a trainer refuses)."""
    return {
        name: tuple(math.nan if slate.column(name)[i] is None else float(slate.column(name)[i]) for i in members)
        for name in names
    }


def named(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Column names from a sequence, or from one text with spaces between (as the command line gives them)."""
    return tuple(columns.split()) if isinstance(columns, str) else tuple(columns)


def pair_of(slate: Slate, chosen: int, rejected: int, carry: Sequence[str] = (), **values: float) -> Contrast:
    """A pair that takes columns along as values: ``carry=("score",)`` gives score=(of chosen, of rejected)."""
    return pair(slate, chosen, rejected, **carried(slate, (chosen, rejected), carry), **values)
