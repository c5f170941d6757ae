"""Pairs in company: across two policies, and with samples beside them that have no side.

A sample joins a pair as a member with role 0. Objectives over a pair alone do not see it; those with a term on
the policy's or the reference's own samples read nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle

from prefine.curating.base import Curator
from prefine.curating.reading import column, role_of
from prefine.registry import at_least
from prefine.slate import CHOSEN, OTHER, REJECTED, Candidate, Contrast, Slate, group


@dataclass(frozen=True)
class Across:
    """Pairs of one role's responses against another's, in order, the better score chosen (a tie: the first role's).

    The members' value ``calibration`` is 1 for the second role's response and 0 for the first's. A response that
    was cut before its end loses ``unfinished``. Responses the judge abstained on are left out.
    """

    first: str = "current"
    second: str = "start"
    by: str = "score"
    unfinished: float = 0.0

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = {
                i: v - self.unfinished * (slate.candidates[i].stop == "length")
                for i, v in column(slate, self.by).items()
            }
            ours, theirs = ([i for i in values if role_of(slate, i) == role] for role in (self.first, self.second))
            for one, other in zip(ours, theirs, strict=False):
                won = values[one] >= values[other]
                members, marks = ((one, other), (0.0, 1.0)) if won else ((other, one), (1.0, 0.0))
                yield group(slate, members, (CHOSEN, REJECTED), calibration=marks)


@dataclass(frozen=True)
class Accompanied:
    """The contrasts of a curator, each with the slate's responses of a role as members without a side."""

    curator: Curator
    role: str = "start"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for contrast in self.curator(slates, rng):
            slate = contrast.slate
            taken = set(contrast.members)
            yield joined(contrast, [i for i in slate.leaves() if role_of(slate, i) == self.role and i not in taken])


@dataclass(frozen=True)
class Part:
    """Every ``of``-th contrast from the i-th on: disjoint lessons for every round."""

    i: int
    of: int

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        return (contrast for place, contrast in enumerate(contrasts) if place % self.of == self.i)


def joined(contrast: Contrast, more: Iterable[int]) -> Contrast:
    """The contrast with more candidates of its slate as members with role 0 (their values are 0).

    >>> from prefine.slate import pair
    >>> trio = Slate("x", (Candidate("a"), Candidate("b"), Candidate("c")))
    >>> joined(pair(trio, 0, 1), [2]).roles
    (1, -1, 0)
    """
    extra = tuple(more)
    values = {k: (*v, *(0.0,) * len(extra)) if isinstance(v, tuple) else v for k, v in contrast.values.items()}
    members, roles = (*contrast.members, *extra), (*contrast.roles, *(OTHER,) * len(extra))
    return replace(contrast, members=members, roles=roles, values=values)


def with_samples(contrasts: Iterable[Contrast], slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """Every contrast with the responses of the slate in the same place as further members, with role 0.

    Fewer slates than contrasts are gone through again. Samples of another prompt keep it as their own.
    """
    for contrast, slate in zip(contrasts, cycle(slates), strict=False):
        small = contrast.compact()
        own = [_alone(slate, i, same=slate.prompt == small.slate.prompt) for i in slate.leaves()]
        wide = Slate(small.slate.prompt, (*small.slate.candidates, *own), {}, small.slate.meta)
        first = len(small.slate.candidates)
        yield joined(replace(small, slate=wide), range(first, first + len(own)))


def prompts_of(contrasts: Iterable[Contrast]) -> Iterator[Slate]:
    """The prompts that contrasts are about, in order, as bare slates: what to sample for ``with_samples``."""
    return (Slate(contrast.prompt(0), meta=contrast.slate.meta) for contrast in contrasts)


def _alone(slate: Slate, index: int, same: bool) -> Candidate:
    candidate = slate.candidates[index]
    if len(slate.path(index)) > 1:
        raise ValueError("samples that continue one another cannot stand beside a pair")
    return replace(candidate, prompt=candidate.prompt if same else slate.prompt_of(index))


def across(first: str = "current", second: str = "start", by: str = "score", unfinished: float = 0.0) -> Across:
    """A response of one policy against one of another, the second marked (exploration, arXiv 2405.21046)."""
    at_least(0, unfinished=unfinished)
    return Across(first, second, by, unfinished)


def accompanied(curator: Curator, role: str = "start") -> Accompanied:
    """A curator's contrasts with another policy's samples for the same prompt beside them."""
    return Accompanied(curator, role)


def part(i: int, of: int) -> Part:
    """The i-th of so many disjoint parts of contrasts."""
    return Part(i, of)
