"""Which responses of a prompt are worth a label: a few that stand for all and are unlike one another, or any few."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prefine.curating.clustering import representative as stand_for_all
from prefine.curating.vectors import Seen, Vectors, cosine, vectors
from prefine.judging.base import Judge
from prefine.registry import at_least
from prefine.selecting.features import Features
from prefine.slate import Slate


@dataclass(frozen=True)
class Representative:
    """See ``representative``."""

    k: int
    lam: float
    vectors: Vectors

    def view(self, policy: Any, reference: Any) -> Judge | None:
        """Hidden states, where responses are compared by those."""
        return Features(policy) if isinstance(self.vectors, Seen) else None

    def __call__(self, rows: Iterable[Slate], rng: random.Random) -> Iterator[Slate]:
        for slate in rows:
            leaves = list(slate.leaves())
            similarity = cosine(self.vectors(slate)[leaves])
            yield slate.take([leaves[i] for i in stand_for_all(similarity, self.k, self.lam, rng)])


@dataclass(frozen=True)
class RandomResponses:
    """k random responses of every prompt."""

    k: int

    def __call__(self, rows: Iterable[Slate], rng: random.Random) -> Iterator[Slate]:
        for slate in rows:
            leaves = list(slate.leaves())
            yield slate.take(sorted(rng.sample(leaves, min(self.k, len(leaves)))))


def representative(k: int = 2, lam: float = 1.0, vectors_of: str = "words") -> Representative:
    """k responses a prompt: as like all the others as can be, less ``lam`` times as like one another (AEPO, arXiv
    2405.13541; ``curating.clustering.representative``). Similarity is the cosine of "words", of "states" (the policy's
    hidden states) or of an encoder in a directory.
    """
    at_least(1, k=k)
    at_least(0, lam=lam)
    return Representative(k, lam, vectors(vectors_of))


def random_responses(k: int = 2) -> RandomResponses:
    """k random responses a prompt."""
    at_least(1, k=k)
    return RandomResponses(k)
