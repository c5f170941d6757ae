"""What a curator is: a function from judged slates to contrasts, the lessons an objective learns from."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Protocol

from prefine.slate import Contrast, Slate


class Curator(Protocol):
    """Slates and a random source in (already seeded; use nothing else), contrasts out.

    A curator sees the whole corpus, so it may search over it; most look at one slate at a time. Slates that
    give no lesson are skipped; ``run.curate`` reports how many.
    """

    def __call__(self, slates: Iterable[Slate], rng: random.Random, /) -> Iterable[Contrast]: ...


def as_is(rows: Iterable[Any], rng: random.Random) -> Iterable[Contrast]:
    """Contrasts as they are: for wrappers around a curator, when the contrasts are there already."""
    return rows
