"""Responses as vectors, for curators and selectors that look for variety. Nothing is downloaded.

"words" needs no model; "states" are the mean hidden states of the policy at hand, which a recipe adds as a column
(``run.judge(slates, selecting.Features(policy), role="view")``); the directory of a sentence encoder works too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prefine.curating.embedding import Encoder, HashedWords, embedder
from prefine.errors import InputError
from prefine.slate import Slate


class Vectors(Protocol):
    """A slate -> (K, D) vectors of its K candidates."""

    def __call__(self, slate: Slate, /) -> np.ndarray: ...


@dataclass(frozen=True)
class OfTexts:
    """What the responses say, whatever the prompt."""

    embedder: HashedWords | Encoder

    def __call__(self, slate: Slate) -> np.ndarray:
        return self.embedder.of_texts([slate.response(i) for i in range(len(slate))])


@dataclass(frozen=True)
class Seen:
    """What a model's hidden states say of the responses: the column that the judge ``selecting.Features`` adds."""

    column: str = "features"

    def __call__(self, slate: Slate) -> np.ndarray:
        if self.column not in slate.feedback:
            raise InputError(
                f"the vectors are hidden states, and slate {slate.id!r} has no column {self.column!r}",
                remedy="use words here or the directory of an encoder, or judge with selecting.Features(policy) first",
            )
        return np.asarray(slate.column(self.column), dtype=float)


STATES = "states"


def vectors(name: str) -> Vectors:
    """Of "words", "states" (the policy's, as a column), or the directory of a sentence encoder."""
    if name == STATES:
        return Seen()
    found = embedder(name)
    if not isinstance(found, HashedWords | Encoder):
        raise InputError(f"vectors={name} are not of responses", remedy="use words, states, or an encoder's directory")
    return OfTexts(found)


def units(x_KD: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Every row at length 1 (a row of zeros stays)."""
    x = np.asarray(x_KD, dtype=float)
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(min=1e-12)


def cosine(x_KD: np.ndarray) -> np.ndarray:
    """(K, K) cosines between rows.

    >>> cosine(np.array([[2.0, 0.0], [1.0, 1.0]])).round(4).tolist()
    [[1.0, 0.7071], [0.7071, 1.0]]
    """
    x = units(x_KD)
    return x @ x.T


def distances(x_KD: np.ndarray) -> np.ndarray:
    """(K, K) Euclidean distances between rows.

    >>> distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    return np.linalg.norm(x_KD[:, None] - x_KD[None], axis=-1)
