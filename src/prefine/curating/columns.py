"""Columns of the slates as values of the contrasts, for objectives that read what is known of a response."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from prefine.curating.base import Curator, as_is
from prefine.curating.reading import carried, named
from prefine.errors import InputError
from prefine.slate import Contrast

Known = Callable[[Contrast], tuple[float, ...] | None]
"""A number a member, or None where it cannot be said."""


@dataclass(frozen=True)
class WithColumns:
    """The contrasts of a curator, each with the columns of its slate as values of its members.

    ``instead``: what may stand in for a column. One kind for the whole data set, the first that all contrasts have:
    rewards on two scales teach nothing.
    """

    columns: tuple[str, ...]
    curator: Curator
    instead: tuple[Known, ...] = ()

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        contrasts = self.curator(rows, rng)  # type: ignore[arg-type]
        if not self.instead:
            yield from (self._carrying(contrast) for contrast in contrasts)
            return
        kept = list(contrasts)
        values = {name: self._best(kept, name) for name in self.columns}
        for i, contrast in enumerate(kept):
            yield replace(contrast, values={**contrast.values, **{name: values[name][i] for name in self.columns}})

    def _carrying(self, contrast: Contrast) -> Contrast:
        need([contrast], *self.columns)
        more = carried(contrast.slate, contrast.members, self.columns)
        return replace(contrast, values={**contrast.values, **more})

    def _best(self, contrasts: Sequence[Contrast], name: str) -> list[tuple[float, ...]]:
        if all(_lacks(contrast, name) is None for contrast in contrasts):
            return [carried(c.slate, c.members, (name,))[name] for c in contrasts]
        for known in self.instead:
            found = [values for contrast in contrasts if (values := known(contrast)) is not None]
            if len(found) == len(contrasts):
                return found
        raise next(lack for c in contrasts if (lack := _lacks(c, name)) is not None)


def with_columns(
    columns: str | Sequence[str], curator: Curator = as_is, *, instead: Sequence[Known] = ()
) -> WithColumns:
    """Contrasts that carry these columns, one number a member; ``instead``: what may stand in where one is missing.

    >>> from prefine.slate import Candidate, Slate, pair, scores
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("score", scores([2.0, 0.5]))
    >>> [c.values for c in with_columns("score")([pair(slate, 1, 0)], random.Random(0))]
    [{'score': (0.5, 2.0)}]
    """
    return WithColumns(named(columns), curator, tuple(instead))


def with_scores(by: str = "score") -> WithColumns:
    """Contrasts with the rewards of their members: the column, else stated gaps, else 1 for chosen and 0 for others."""
    return with_columns(by, instead=(by_gap, by_role))


def by_gap(contrast: Contrast) -> tuple[float, ...] | None:
    """The contrast's own value "gap" for the chosen, 0 for the others."""
    gap = contrast.values.get("gap")
    return tuple(float(gap) if r > 0 else 0.0 for r in contrast.roles) if isinstance(gap, float | int) else None


def by_role(contrast: Contrast) -> tuple[float, ...]:
    """1 for the chosen and 0 for the others."""
    return tuple(float(role > 0) for role in contrast.roles)


def need(contrasts: Iterable[Contrast], *columns: str, look_at: int = 64) -> None:
    """An InputError that says which columns would have to be in the data, if the first contrasts lack one.

    A recipe calls it in its first lines, so that it is found out before anything heavy starts.
    """
    for contrast in islice(contrasts, look_at):
        for name in columns:
            lack = _lacks(contrast, name)
            if lack is not None:
                raise lack


def _lacks(contrast: Contrast, name: str) -> InputError | None:
    found = contrast.slate.feedback.get(name)
    if found is not None and all(found.values[i] is not None for i in contrast.members):
        return None
    there = ", ".join(sorted(contrast.slate.feedback)) or "none"
    return InputError(
        f"pair {contrast.slate.id!r} has no {name!r} for its responses (columns there: {there})",
        remedy=f'give pairs with a number for each side, as "{name}_chosen" and "{name}_rejected"',
    )
