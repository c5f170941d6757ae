"""Levels of a factor: the same pairs with more of their labels turned round, or those of one data set alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.curating.tags import said
from prefine.errors import InputError
from prefine.slate import Contrast, Slate


@dataclass(frozen=True)
class Turned:
    """A curator: every pair's label the wrong way round with this probability."""

    share: float

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in rows:
            turned = rng.random() < self.share
            yield replace(contrast, roles=tuple(-role for role in contrast.roles)) if turned else contrast


@dataclass(frozen=True)
class Saying:
    """A curator: so many of the pairs whose column has this value."""

    column: str
    value: str
    most: int

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = [contrast for contrast in rows if said(contrast.slate, self.column) == self.value]
        return iter(rng.sample(found, min(self.most, len(found))))


def counted(slates: Iterable[Slate], column: str) -> Counter[str]:
    """How many rows there are of every value."""
    count = Counter(value for slate in slates if (value := said(slate, column)) is not None)
    if not count:
        raise InputError(
            f"a comparison by {column!r}, and no row has such a column",
            remedy=f'give rows with "{column}": "name", or leave the option out',
        )
    return count
