"""Anchors: one answer of each prompt that is known to be good, beside samples of which nothing is known."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.curating.reading import best, column, worst
from prefine.errors import InputError
from prefine.registry import at_least
from prefine.slate import CHOSEN, Candidate, Contrast, Slate, pair, point


def anchor_of(slate: Slate, column: str = "anchor") -> str:
    """The good answer that came with the prompt."""
    found = slate.meta.get(column, slate.meta.get("extra", {}).get(column))
    if not isinstance(found, str) or not found.strip():
        raise InputError(
            f"prompt {slate.id!r} has no good answer in {column!r}",
            remedy=f'give "{column}": "..." in every row, or demonstrations from which it is taken',
        )
    return found


def demonstrated(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The first response of every slate as one to imitate: what a teacher said."""
    return (point(slate, 0, True) for slate in slates if len(slate))


def with_anchors(demos: Iterable[Contrast], column: str = "anchor") -> Iterator[Slate]:
    """The prompts of demonstrations as bare slates, each with its answer in ``meta``.

    >>> slate = Slate("2+2=", (Candidate("4"),))
    >>> [s.meta["anchor"] for s in with_anchors([point(slate, 0, True)])]
    ['4']
    """
    for demo in demos:
        good = demo.roles.index(CHOSEN)
        yield Slate(demo.prompt(good), meta={**demo.slate.meta, column: demo.response(good)})


@dataclass(frozen=True)
class PositiveUnlabelled:
    """Best against worst sample by their scores; and, with ``anchors``, the anchor against the worst.

    A sample is a negative only where it is clearly below: by at least ``min_gap``, of the best or of the anchor, whose
    score is ``top``.
    """

    min_gap: float = 0.0
    anchors: bool = False
    top: float = 1.0
    by: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if not values:
                continue
            high, low = best(values), worst(values)
            if values[high] > values[low] and values[high] - values[low] >= self.min_gap:
                yield pair(slate, high, low)
            if self.anchors and values[low] < self.top and self.top - values[low] >= self.min_gap:
                anchor = Candidate(anchor_of(slate), origin={"role": "teacher"})
                other = replace(slate.candidates[low], parent=None, text=slate.response(low))
                yield pair(Slate(slate.prompt, (anchor, other), meta=slate.meta), 0, 1)


def positive_unlabelled(
    min_gap: float = 0.0, anchors: bool = False, top: float = 1.0, by: str = "score"
) -> PositiveUnlabelled:
    """Pairs of scored samples, and of the prompt's anchor against the worst sample (arXiv 2601.20687)."""
    at_least(0, min_gap=min_gap)
    return PositiveUnlabelled(min_gap, anchors, top, by)
