"""Whole groups of responses with numbers, for objectives over more than two: scored groups, and levels."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefine.curating.reading import best, column, worst
from prefine.registry import at_least
from prefine.slate import CHOSEN, OTHER, REJECTED, Contrast, Slate, group


@dataclass(frozen=True)
class ScoredGroups:
    """The responses of a slate in consecutive groups of K, each with its score as a value of the members.

    The best of a group is chosen and the worst rejected, the others are neither; what is left over at the end is a
    smaller group, and a single response none.
    """

    size: int | None = None
    by: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            for members in _consecutive(list(values), self.size):
                if len(members) > 1:
                    top, bottom = (pick({i: values[i] for i in members}) for pick in (best, worst))
                    sides = {top: CHOSEN, bottom: REJECTED} if values[top] > values[bottom] else {}
                    roles = [sides.get(i, OTHER) for i in members]
                    yield group(slate, members, roles, score=tuple(values[i] for i in members))


@dataclass(frozen=True)
class LeveledGroups:
    """All checked responses of a slate with their preference level, 1 the best (TRPA, arXiv 2504.04524).

    From the verdicts of a check: right (1) is level 1, wrong but in form (0) level 2, and worse ones (-1, -2)
    levels 3 and 4. Level 1 is chosen, the others are rejected. A group on one level stays: it is held to the trust
    region, though it has no pair. ``unknown``: the level of a response on which the check abstained, because its
    prompt has no gold answer; without one it is left out.
    """

    by: str = "verified"
    unknown: float | None = None

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            levels = {i: level_of(v) for i, v in column(slate, self.by).items()}
            if self.unknown is not None:
                levels = {i: levels.get(i, self.unknown) for i in slate.leaves()}
            if len(levels) > 1:
                roles = [CHOSEN if level == 1 else REJECTED for level in levels.values()]
                yield group(slate, list(levels), roles, level=tuple(levels.values()))


def level_of(verdict: float) -> float:
    """1 for right, 2 for wrong, 3 and more for what cannot be read.

    >>> [level_of(v) for v in (1.0, 0.0, -1.0, -2.0)]
    [1.0, 2.0, 3.0, 4.0]
    """
    return max(1.0, 2.0 - verdict)


def _consecutive(items: Sequence[int], size: int | None) -> Iterator[list[int]]:
    step = size or max(1, len(items))
    return (list(items[at : at + step]) for at in range(0, len(items), step))


def scored_groups(size: int | None = None, by: str = "score") -> ScoredGroups:
    """Groups of K responses with their scores (None: all of a prompt), consecutive where there are more than K."""
    at_least(2, **{} if size is None else {"size": size})
    return ScoredGroups(size, by)


def leveled_groups(by: str = "verified", unknown: float | None = None) -> LeveledGroups:
    """All responses of a prompt with their preference level; ``unknown``: that of responses nobody could check."""
    at_least(1, **{} if unknown is None else {"unknown": unknown})
    return LeveledGroups(by, unknown)
