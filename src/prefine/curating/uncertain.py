"""Pairs by how far a second opinion agrees: from reward extremes, without noise, easy or hard (arXiv 2409.11212).

The second opinion is a judge that compares several times (``judging.dropout``): its table NAME_votes says who wins most
passes and NAME_bald how much the passes disagree, from 0 to log 2. Both are read at (chosen, rejected).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

from prefine.curating.extremes import extremes
from prefine.curating.reading import column, pair_of
from prefine.errors import InputError
from prefine.judging.dropout import BOTH, both
from prefine.registry import at_least, between
from prefine.slate import CHOSEN, REJECTED, Contrast, Slate, point

T = TypeVar("T")


@dataclass(frozen=True)
class EndsPool:
    """All pairs among a slate's ``ends`` best and ``ends`` worst; of them all a random share."""

    by: str = "score"
    ends: int = 2
    share: float = 1.0

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        pool = [contrast for slate in slates for contrast in self._pairs(slate)]
        count = max(1, int(self.share * len(pool) + 1e-9)) if pool else 0
        return (pool[i] for i in sorted(rng.sample(range(len(pool)), count)))

    def _pairs(self, slate: Slate) -> Iterator[Contrast]:
        values = column(slate, self.by)
        best_first = sorted(values, key=lambda i: (-values[i], i))
        if len(best_first) > 2 * self.ends:
            best_first = [*best_first[: self.ends], *best_first[-self.ends :]]
        return (pair_of(slate, w, l) for w, l in combinations(best_first, 2) if values[w] > values[l])


@dataclass(frozen=True)
class BothWays:
    """Every pair as two labelled texts that show both responses: chosen first is good, rejected first is bad."""

    template: str = BOTH

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in pairs:
            w, l = (contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED))
            texts = (both(contrast.slate, w, l, self.template), both(contrast.slate, l, w, self.template))
            shown = Slate(contrast.slate.prompt, texts, {}, contrast.slate.meta)
            yield point(shown, 0, True)
            yield point(shown, 1, False)


@dataclass(frozen=True)
class SecondOpinion:
    """What to learn from in a round: a curator of (doubted pairs, scored slates, offline pairs). See
    ``second_opinion``."""

    offline: float = 0.4
    wide: float = 0.3
    hard: float = 0.2
    rate: float = 0.5
    name: str = "preference"

    def __call__(
        self, doubted: Iterable[Contrast], scored: Iterable[Slate], offline: Sequence[Contrast], rng: random.Random
    ) -> Iterator[Contrast]:
        kept = agreed(doubted, self.name)
        easy, hard = easy_and_hard(kept, self.rate, rng, self.name)
        widest = list(extremes("score")(scored, rng))
        lessons = [
            *_share(offline, self.offline, rng),
            *easy,
            *_share(widest, self.wide, rng),
            *_share(hard, self.hard, rng),
        ]
        rng.shuffle(lessons)
        seen: set[str] = set()
        for lesson in lessons:
            if lesson.slate.id not in seen:
                seen.add(lesson.slate.id)
                yield replace(lesson, values={"preference": 1 - softness(lesson, self.name)})


def agreed(doubted: Iterable[Contrast], name: str = "preference") -> list[Contrast]:
    """The pairs whose chosen wins at least half of the passes: the rest is taken for noise."""
    return [contrast for contrast in doubted if cell(contrast, f"{name}_votes") >= 0.5]


def easy_and_hard(
    kept: Sequence[Contrast], rate: float, rng: random.Random, name: str = "preference"
) -> tuple[list[Contrast], list[Contrast]]:
    """Two draws of floor(rate * pairs): one by weights 1 - BALD, one by weights BALD."""
    doubts = [cell(contrast, f"{name}_bald") for contrast in kept]
    count = int(rate * len(kept) + 1e-9)
    easy = without_replacement(kept, [max(0.0, 1 - doubt) for doubt in doubts], count, rng)
    return easy, without_replacement(kept, [max(0.0, doubt) for doubt in doubts], count, rng)


def softness(contrast: Contrast, name: str = "preference") -> float:
    """eps = clip( BALD/(2 log 2), 0, 1/2 ): how soft a label should be; 0 where nobody was asked."""
    if f"{name}_bald" not in contrast.slate.feedback:
        return 0.0
    return min(max(cell(contrast, f"{name}_bald") / (2 * math.log(2)), 0.0), 0.5)


def cell(contrast: Contrast, table: str) -> float:
    """A table's value at (chosen, rejected)."""
    w, l = (contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED))
    return float(contrast.slate.column(table)[w][l])


def without_replacement(rows: Sequence[T], weights: Sequence[float], count: int, rng: random.Random) -> list[T]:
    """``count`` rows drawn one after the other by their weights; once only weights of 0 are left, by chance.

    (Rows with the largest log(u)/weight, u uniform: the same as drawing in turn. Efraimidis and Spirakis 2006.)

    >>> without_replacement("abc", [0.0, 1.0, 2.0], 3, random.Random(0))[-1]
    'a'
    """
    if len(weights) != len(rows) or any(not math.isfinite(w) or w < 0 for w in weights):
        raise ValueError("every row needs a weight of 0 or above")

    def lot(weight: float) -> tuple[bool, float]:
        u = 1 - rng.random()
        return (True, math.log(u) / weight) if weight > 0 else (False, u)

    lots = [lot(weight) for weight in weights]
    order = sorted(range(len(rows)), key=lambda i: lots[i], reverse=True)
    return [rows[i] for i in order[:count]]


def ends_pool(by: str = "score", ends: int = 2, share: float = 1.0) -> EndsPool:
    """All pairs among the best and the worst of a slate (best against second best too)."""
    at_least(1, ends=ends)
    between(0, 1.0000001, share=share)
    return EndsPool(by, ends, share)


def both_ways(template: str = BOTH) -> BothWays:
    """Lessons for a pairwise reward model (``objectives.binary_cross_entropy``), from pairs."""
    return BothWays(template)


def second_opinion(
    offline: float = 0.4, wide: float = 0.3, hard: float = 0.2, rate: float = 0.5, name: str = "preference"
) -> Callable[..., Any]:
    """Doubted pairs without those the second opinion votes against; of the rest an easy draw, all of it, and a share
    ``hard`` of a hard draw (each a share ``rate`` of them); a share ``offline`` of offline pairs, and a share ``wide``
    of the slates' best against worst. Shuffled; of every prompt the first one stays. The value "preference" is
    1 - ``softness``, for ``objectives.soft_labels``."""
    between(0, 1.0000001, offline=offline, wide=wide, hard=hard)
    if not 0 < rate <= 0.5:
        raise InputError(f"rate={rate!r} is not a share of up to a half", remedy="give a rate above 0, up to 0.5")
    return SecondOpinion(offline, wide, hard, rate, name)


def _share(rows: Iterable[T], share: float, rng: random.Random) -> list[T]:
    every = list(rows)
    return rng.sample(every, int(share * len(every) + 1e-9))
