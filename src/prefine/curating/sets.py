"""Sets: which responses of a slate are accepted and which rejected, as one contrast with all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from prefine.curating.reading import column
from prefine.errors import InputError
from prefine.registry import at_least
from prefine.slate import CHOSEN, OTHER, REJECTED, Contrast, Slate, group

Split = Callable[[Mapping[int, float]], tuple[list[int], list[int]]]
"""Scores by candidate -> (accepted, rejected), each the most certain first."""


def by_mean(values: Mapping[int, float]) -> tuple[list[int], list[int]]:
    """Above the mean, or not.

    >>> by_mean({0: 3.0, 1: 1.0, 2: 2.0})
    ([0], [1, 2])
    """
    mean = fmean(values.values())
    return _sorted(values, lambda v: v > mean)


def by_half(values: Mapping[int, float]) -> tuple[list[int], list[int]]:
    """The better half against the worse half; of an odd number the middle one is in neither.

    >>> by_half({0: 3.0, 1: 1.0, 2: 2.0})
    ([0], [1])
    """
    best_first = sorted(values, key=lambda i: (-values[i], i))
    half = len(best_first) // 2
    return best_first[:half], best_first[len(best_first) - half :][::-1]


@dataclass(frozen=True)
class AtLeast:
    """At least so good, or not: absolute labels."""

    bar: float

    def __call__(self, values: Mapping[int, float]) -> tuple[list[int], list[int]]:
        return _sorted(values, lambda v: v >= self.bar)


def _sorted(values: Mapping[int, float], accepts: Callable[[float], bool]) -> tuple[list[int], list[int]]:
    accepted = sorted((i for i, v in values.items() if accepts(v)), key=lambda i: (-values[i], i))
    return accepted, sorted((i for i, v in values.items() if not accepts(v)), key=lambda i: (values[i], i))


SPLITS: Mapping[str, Split] = {"mean": by_mean, "half": by_half}


@dataclass(frozen=True)
class Sets:
    """One contrast a slate: accepted responses are chosen, rejected ones rejected, each with the value "score".

    ``most``: only so many of each set, the most certain ones. ``one_sided``: a slate with one set only stays.
    ``others``: responses in neither set take part with role 0.
    """

    split: Split
    by: str = "score"
    most: int | None = None
    one_sided: bool = False
    others: bool = False

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            accepted, rejected = (side[: self.most] for side in self.split(values)) if len(values) else ([], [])
            if not (accepted and rejected) and not (self.one_sided and (accepted or rejected)):
                continue
            sides = {**dict.fromkeys(accepted, CHOSEN), **dict.fromkeys(rejected, REJECTED)}
            members = [*accepted, *rejected, *(i for i in values if self.others and i not in sides)]
            roles = [sides.get(i, OTHER) for i in members]
            yield group(slate, members, roles, score=tuple(values[i] for i in members))


def sets(
    split: str | float = "mean",
    by: str = "score",
    most: int | None = None,
    one_sided: bool = False,
    others: bool = False,
) -> Sets:
    """Accepted and rejected responses of every slate: split at the mean, in halves, or at a number.

    >>> from prefine.slate import Candidate, scores
    >>> slate = Slate("?", tuple(map(Candidate, "abcd"))).with_feedback("score", scores([4.0, 1.0, 3.0, 0.0]))
    >>> [(c.members, c.roles) for c in sets("mean")([slate], random.Random(0))]
    [((0, 2, 3, 1), (1, 1, -1, -1))]
    """
    if most is not None:
        at_least(1, most=most)
    if isinstance(split, str) and split not in SPLITS:
        raise InputError(f"split={split!r} is not known", remedy=f"use {', '.join(SPLITS)}, or a number")
    chosen = SPLITS[split] if isinstance(split, str) else AtLeast(float(split))
    return Sets(chosen, by, most, one_sided, others)


def gathered(labels: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """Labelled responses, those to one prompt together as one contrast: sets of any size, either may be empty.

    >>> from prefine.slate import Candidate, point
    >>> slate = Slate("?", (Candidate("a"), Candidate("b")))
    >>> [c.roles for c in gathered([point(slate, 0, True), point(slate, 1, False)], random.Random(0))]
    [(1, -1)]
    """
    found: dict[str, list[Contrast]] = {}
    for label in labels:
        found.setdefault(label.slate.id, []).append(label)
    for same in found.values():
        own = [
            (replace(c.slate.candidates[member], parent=None, text=c.slate.response(member)), role)
            for c in same
            for member, role in zip(c.members, c.roles, strict=True)
            if role != OTHER
        ]
        slate = Slate(same[0].slate.prompt, tuple(candidate for candidate, _ in own), {}, same[0].slate.meta)
        yield group(slate, range(len(own)), [role for _, role in own])
