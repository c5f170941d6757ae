"""Pairs whose responses are known to be factual or not (F-DPO, arXiv 2601.03027): order, balance, inversions.

h = 1 says that a response contains a hallucination or error, 0 that it is factual; a pair has (h_w, h_l).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from prefine.curating.base import Curator, as_is
from prefine.curating.columns import with_columns
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, labels, pair, prompt_text

BUCKETS = ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0))
"""The kinds of pairs (h_w, h_l), in the order in which their numbers are limited."""


@dataclass(frozen=True)
class FactualOrder:
    """Pairs with their flags as values; those with a false winner and a factual loser are turned round.

    ``at_most`` limits how many pairs of each kind are kept, before turning: (0,1), (1,0), (0,0), (1,1); which ones
    is random. After it no pair has (h_w, h_l) = (1, 0).
    """

    flags: str
    at_most: tuple[int, ...]
    curator: Curator

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> Iterator[Contrast]:
        flagged = list(with_columns(self.flags, self.curator)(rows, rng))
        if self.at_most:
            flagged = [flagged[i] for i in sorted(self._kept(flagged, rng))]
        for contrast in flagged:
            yield turned(contrast) if self._kind(contrast) == (1.0, 0.0) else contrast

    def _kind(self, contrast: Contrast) -> tuple[float, float]:
        flags = contrast.values[self.flags]
        assert isinstance(flags, tuple)
        of = dict(zip(contrast.roles, flags, strict=True))
        return float(of[1]), float(of[-1])

    def _kept(self, contrasts: list[Contrast], rng: random.Random) -> Iterator[int]:
        for kind, limit in zip(BUCKETS, self.at_most, strict=True):
            here = [i for i, contrast in enumerate(contrasts) if self._kind(contrast) == kind]
            yield from rng.sample(here, min(limit, len(here)))


def turned(contrast: Contrast) -> Contrast:
    """The pair with chosen and rejected exchanged: chosen comes first again, values of the members with it."""
    values = {k: v[::-1] if isinstance(v, tuple) else v for k, v in contrast.values.items()}
    return replace(contrast, members=contrast.members[::-1], values=values)


def _chosen_first(contrast: Contrast) -> tuple[int, ...]:
    return contrast.members if contrast.roles[0] > 0 else contrast.members[::-1]


def factual_order(flags: str = "hallucinated", at_most: tuple[int, ...] = (), curator: Curator = as_is) -> FactualOrder:
    """Pairs in factual order.

    >>> from prefine.slate import scores
    >>> slate = Slate("hi", (Candidate("a"), Candidate("b"))).with_feedback("hallucinated", labels([True, False]))
    >>> [(c.response(0), c.values) for c in factual_order()([pair(slate, 0, 1)], random.Random(0))]
    [('b', {'hallucinated': (0.0, 1.0)})]
    """
    if at_most and len(at_most) != len(BUCKETS):
        raise InputError(f"at_most has {len(at_most)} numbers", remedy="give four: for (0,1), (1,0), (0,0), (1,1)")
    return FactualOrder(flags, tuple(at_most), curator)


# -- labelling pairs, and making more


def as_slates(pairs: Iterable[Contrast]) -> Iterator[Slate]:
    """Pairs as slates of two candidates, the chosen first, for a judge to look at."""
    for contrast in pairs:
        yield contrast.slate.take(_chosen_first(contrast))


def first_over_second(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """Such slates as pairs again."""
    return (pair(slate, *slate.leaves()[:2]) for slate in slates)


ASK = (
    "Rewrite the answer below so that it contains two or three subtle factual errors. Keep its style, length and "
    "confidence; do not say that anything was changed, and write only the answer.\n\n"
    "Question:\n{prompt}\n\nAnswer:\n{answer}\n\nRewritten answer:"
)


@dataclass(frozen=True)
class ToCorrupt:
    """Prompts that ask for a corrupted version of factual winners of (0, 1) pairs, at most so many."""

    at_most: int
    flags: str = "hallucinated"

    def __call__(self, pairs: Iterable[Contrast], seed: int) -> Iterator[Slate]:
        everything = list(with_columns(self.flags)(pairs, random.Random(0)))
        clean = [c for c in everything if c.values[self.flags] == (0.0, 1.0)]
        for contrast in random.Random(f"inversions {seed}").sample(clean, min(self.at_most, len(clean))):
            asked = ASK.format(prompt=prompt_text(contrast.prompt(0)), answer=contrast.response(0))
            about = {"prompt": contrast.slate.to_json()["prompt"], "answer": contrast.response(0)}
            yield Slate(asked, meta={"id": f"corrupt {contrast.slate.id}", "original": about})


@dataclass(frozen=True)
class Inverted:
    """Corrupted over original, flags (1, 0): the preference is turned round in training, and a false answer that
    reads well becomes the rejected one."""

    flags: str = "hallucinated"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            original, written = slate.meta["original"], slate.response(slate.leaves()[0]).strip()
            if written and written != original["answer"].strip():
                both = (Candidate(written), Candidate(original["answer"]))
                made = Slate.from_json({"prompt": original["prompt"], "meta": {"id": slate.id}})
                yield pair(replace(made, candidates=both, feedback={self.flags: labels([True, False])}), 0, 1)
