"""Labelled single responses: from a threshold, from pairs, and with responses to other prompts beside them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean, median

from prefine.curating.base import Curator
from prefine.curating.reading import column
from prefine.registry import one_of
from prefine.slate import OTHER, Candidate, Contrast, Slate, point


@dataclass(frozen=True)
class Thresholded:
    """A response is good when its score is above the threshold, bad when not.

    ``at`` gives the threshold from a slate's scores. A threshold taken from the slate itself says nothing
    about a slate whose responses all score alike, which is skipped.
    """

    by: str
    at: Callable[[list[float]], float]
    relative: bool

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if not values or (self.relative and len(set(values.values())) == 1):
                continue
            threshold = self.at(list(values.values()))
            for i, value in values.items():
                yield point(slate, i, value > threshold)


@dataclass(frozen=True)
class Fixed:
    """The same number for every slate."""

    threshold: float

    def __call__(self, values: list[float]) -> float:
        return self.threshold


RELATIVE: Mapping[str, Callable[[list[float]], float]] = {"mean": fmean, "median": median}


@dataclass(frozen=True)
class AsPoints:
    """Every member with a side becomes a labelled response of its own."""

    curator: Curator

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for contrast in self.curator(slates, rng):
            for place, role in enumerate(contrast.roles):
                if role != OTHER:
                    own = {k: v[place] if isinstance(v, tuple) else v for k, v in contrast.values.items()}
                    yield Contrast(contrast.slate, (contrast.members[place],), (role,), own, contrast.context)


@dataclass(frozen=True)
class Mismatched:
    """Every contrast gets a member with role 0: a response to another prompt, after this prompt.

    Responses are handed round a ring in random order, each to the next contrast with another prompt; with
    only one prompt there is nothing to hand out and the contrasts stay as they are.
    """

    curator: Curator

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        contrasts = list(self.curator(slates, rng))
        ring = list(range(len(contrasts)))
        rng.shuffle(ring)
        for place, index in enumerate(ring):
            ids = (ring[(place + step) % len(ring)] for step in range(1, len(ring)))
            other = next((i for i in ids if contrasts[i].slate.id != contrasts[index].slate.id), None)
            yield contrasts[index] if other is None else with_mismatched(contrasts[index], contrasts[other])


def with_mismatched(contrast: Contrast, other: Contrast) -> Contrast:
    """The contrast with the other's first response as one more member, with role 0."""
    small = contrast.compact()
    candidate = _alone(other.slate, other.members[0])
    slate = Slate(small.slate.prompt, (*small.slate.candidates, candidate), {}, small.slate.meta)
    # A value a member needs a number for the newcomer; objectives do not read it on role 0.
    values = {k: (*v, 0.0) if isinstance(v, tuple) else v for k, v in small.values.items()}
    members = (*small.members, len(small.slate.candidates))
    return replace(small, slate=slate, members=members, roles=(*small.roles, OTHER), values=values)


def _alone(slate: Slate, index: int) -> Candidate:
    """A response as one candidate without parents."""
    path = [slate.candidates[i] for i in slate.path(index)]
    if len(path) == 1:
        return replace(path[0], logps=None, prompt=None, origin={})
    tokens = None if any(c.tokens is None for c in path) else tuple(t for c in path for t in c.tokens or ())
    return Candidate(slate.response(index), tokens=tokens, stop=path[-1].stop)


def points(by: str = "score", threshold: float | str = "mean") -> Thresholded:
    """Labelled responses: good above the threshold, a number or "mean" or "median" of the slate."""
    if isinstance(threshold, str):
        return Thresholded(by, one_of("threshold", threshold, RELATIVE), True)
    return Thresholded(by, Fixed(threshold), False)


def labelled(by: str = "score", threshold: float | str = "mean") -> Mismatched:
    """Labelled responses, each with a response to another prompt: what KTO learns from."""
    return Mismatched(points(by, threshold))


def as_points(curator: Curator) -> AsPoints:
    """The pairs of a curator as labelled responses."""
    return AsPoints(curator)


def mismatched(curator: Curator) -> Mismatched:
    """The contrasts of a curator, each with a response to another prompt (for KTO's reference point)."""
    return Mismatched(curator)
