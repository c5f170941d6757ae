"""What the data says beside the responses, as values of the contrasts: what wrappers and margins read.

A value is looked for, in this order, among the contrast's own; as a column of numbers of the members; in the row
itself (a column that no format reads, such as ``"weight": 0.5``); and in what it can be worked out from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from prefine.curating.reading import named
from prefine.errors import InputError
from prefine.slate import Contrast

Value = float | tuple[float, ...]


@dataclass(frozen=True)
class WithValues:
    """Contrasts (already made) with these values; ``columns`` says what the data calls them, ``option`` how one would
    say so on the command line."""

    names: tuple[str, ...]
    columns: Mapping[str, str]
    option: str = "--values {name}=COLUMN"

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        contrasts = list(rows)
        numbers = {name: self._numbered(contrasts, name) for name in self.names}
        for i, contrast in enumerate(contrasts):
            yield replace(contrast, values={**contrast.values, **{name: numbers[name][i] for name in self.names}})

    def _numbered(self, contrasts: list[Contrast], name: str) -> list[Value]:
        found = [_found(contrast, name, self.columns.get(name, name)) for contrast in contrasts]
        for contrast, value in zip(contrasts, found, strict=True):
            if value is None:
                raise _lacking(contrast, name, self.columns.get(name, name), self.option)
        people = {v for v in found if isinstance(v, str) or (name in PEOPLE and isinstance(v, float))}
        places: dict[Value | str | None, int] = {who: i for i, who in enumerate(sorted(people, key=_by_name))}
        return [float(places[v]) if v in places else v for v in found if v is not None]  # type: ignore[misc]


def with_values(
    names: str | tuple[str, ...],
    columns: Mapping[str, str] = MappingProxyType({}),
    option: str = "--values {name}=COLUMN",
) -> WithValues:
    """Contrasts that carry these values. Names of people and the like are numbered from 0, in alphabetical order.

    >>> from prefine.slate import Candidate, Slate, pair
    >>> rows = [pair(Slate("hi", (Candidate("a"), Candidate("b")), meta={"extra": {"annotator": who}}), 0, 1)
    ...         for who in ("Zoe", "Ana")]
    >>> [c.values for c in with_values("annotator")(rows, random.Random(0))]
    [{'annotator': 1.0}, {'annotator': 0.0}]
    """
    return WithValues(named(names), dict(columns), option)


def _by_name(who: Any) -> tuple[bool, Any]:
    return isinstance(who, str), who


def has(contrast: Contrast, name: str, columns: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Whether this contrast has the value."""
    return _found(contrast, name, columns.get(name, name)) is not None


def _found(contrast: Contrast, name: str, column: str) -> Value | str | None:
    """A number, a number a member, or a name; None where nothing says it."""
    for look in (_own, _of_members, _of_row, WORKED_OUT.get(name, _nothing)):
        value = look(contrast, column)
        if value is not None:
            return value
    return None


def _own(contrast: Contrast, column: str) -> Value | None:
    return contrast.values.get(column)


def _of_members(contrast: Contrast, column: str) -> Value | str | None:
    feedback = contrast.slate.feedback.get(column)
    if feedback is None or feedback.kind not in ("score", "label", "id"):
        return None
    values = [feedback.values[i] for i in contrast.members]
    if any(v is None for v in values):
        return None
    if feedback.kind == "id":
        return str(values[0])
    return tuple(float(v) for v in values)


def _of_row(contrast: Contrast, column: str) -> Value | str | None:
    meta = contrast.slate.meta
    value: Any = meta.get(column, meta.get("extra", {}).get(column))
    return float(value) if isinstance(value, int | float) else value if isinstance(value, str) else None


def _gap(contrast: Contrast, column: str) -> float | None:
    """How much better the chosen is: stated as the value "gap", or by the scores of the two."""
    stated = contrast.values.get("gap")
    scores = _of_members(contrast, "score")
    if isinstance(stated, float | int) or not isinstance(scores, tuple):
        return float(stated) if isinstance(stated, float | int) else None
    sides = dict(zip(contrast.roles, scores, strict=True))
    return sides[1] - sides[-1] if {1, -1} <= sides.keys() else None


def _probability(contrast: Contrast, column: str) -> float | None:
    """The cell of a table of comparisons."""
    table = contrast.slate.feedback.get("preference")
    if table is None or table.kind != "table" or 1 not in contrast.roles or -1 not in contrast.roles:
        return None
    chosen, rejected = (contrast.members[contrast.roles.index(role)] for role in (1, -1))
    return float(table.values[chosen][rejected])


def _nothing(contrast: Contrast, column: str) -> None:
    return None


WORKED_OUT: Mapping[str, Callable[[Contrast, str], Value | None]] = {
    "gap": _gap, "margin": _gap, "rating_gap": _gap, "preference": _probability,
}  # fmt: skip
"""Values that can be worked out from scores and tables of comparisons."""

PEOPLE = ("annotator",)
"""Values that are ids of people: numbered from 0 like names, also where the data has numbers (say, 1042)."""

SAY: Mapping[str, str] = {
    "annotator": 'who labelled each row, "annotator": "ana"',
    "margin": 'how much better the chosen is, "margin": 1.5, or scores, "score_chosen": 4, "score_rejected": 1',
    "preference": 'the probability that the chosen is better, "preference": 0.8',
    "weight": 'how much each row counts, "weight": 0.5',
}


def _lacking(contrast: Contrast, name: str, column: str, option: str) -> InputError:
    extra = contrast.slate.meta.get("extra", {})
    there = ", ".join(sorted({*contrast.values, *contrast.slate.feedback, *extra})) or "none"
    say = SAY.get(name, f'a number in every row, "{name}": 1.0')
    return InputError(
        f"this objective reads {name!r} of every row, and {contrast.slate.id!r} has no {column!r} (there: {there})",
        remedy=f"give {say}; or say which column has it: {option.format(name=name)}",
    )
