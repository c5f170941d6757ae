"""Columns of the slates as values of the contrasts, for objectives that read what is known of a response."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from prefine.curating.base import Curator, as_is
from prefine.curating.reading import carried, named
from prefine.errors import InputError
from prefine.slate import Contrast


@dataclass(frozen=True)
class WithColumns:
    """The contrasts of a curator, each with the columns of its slate as values of its members."""

    columns: tuple[str, ...]
    curator: Curator

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in self.curator(rows, rng):  # type: ignore[arg-type]
            need([contrast], *self.columns)
            more = carried(contrast.slate, contrast.members, self.columns)
            yield replace(contrast, values={**contrast.values, **more})


def with_columns(columns: str | Sequence[str], curator: Curator = as_is) -> WithColumns:
    """Contrasts that carry these columns, one number a member.

    >>> from prefine.slate import Candidate, Slate, pair, scores
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("score", scores([2.0, 0.5]))
    >>> [c.values for c in with_columns("score")([pair(slate, 1, 0)], random.Random(0))]
    [{'score': (0.5, 2.0)}]
    """
    return WithColumns(named(columns), curator)


def need(contrasts: Iterable[Contrast], *columns: str, look_at: int = 64) -> None:
    """An InputError that says which columns would have to be in the data, if the first contrasts lack one.

    A recipe calls it in its first lines, so that it is found out before anything heavy starts.
    """
    for contrast in islice(contrasts, look_at):
        for name in columns:
            found = contrast.slate.feedback.get(name)
            if found is None or any(found.values[i] is None for i in contrast.members):
                there = ", ".join(sorted(contrast.slate.feedback)) or "none"
                raise InputError(
                    f"pair {contrast.slate.id!r} has no {name!r} for its responses (columns there: {there})",
                    remedy=f'give pairs with a number for each side, as "{name}_chosen" and "{name}_rejected"',
                )
