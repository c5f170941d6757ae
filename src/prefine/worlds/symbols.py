"""Rows of random symbols, preferred for the one symbol that comes after a marker in them. For claims about tokens.

A small language model is trained on rows where either symbol comes after the marker half of the time, so one token
of ten decides and the others are noise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefine.engine.batch import collate_contrasts, encode_contrasts
from prefine.judging.base import Scored
from prefine.policies.base import Batch, Limits
from prefine.slate import Candidate, Contrast, Slate
from prefine.worlds.pretrain import Settings, pretrained

SYMBOLS = tuple("abcdefghi")
MARKER, GOOD, BAD = "M", "G", "B"
PROMPT = "say:"
SMALL = Settings(steps=200, rows=32, width=48, layers=2, heads=4, context=32, words=400)


def spelled(rng: random.Random, after: str) -> str:
    """Ten symbols at random, somewhere among them the marker and what comes after it.

    >>> spelled(random.Random(0), GOOD)
    ' g g a e i h g M G e'
    """
    symbols = [rng.choice(SYMBOLS) for _ in range(8)]
    at = rng.randrange(8)
    return "".join(f" {s}" for s in [*symbols[:at], MARKER, after, *symbols[at:]])


def write(rng: random.Random) -> tuple[str, str]:
    """One example of the base's training: (prompt, response)."""
    return PROMPT, spelled(rng, rng.choice((GOOD, BAD)))


def base(cache: Path) -> Path:
    """Directory of the base policy."""
    return pretrained(cache, "symbols", write, SMALL)


def slates(n: int, seed: int) -> list[Slate]:
    """A good and a bad row each, with nothing else in common."""
    rng = random.Random(f"symbols {seed}")
    return [Slate(PROMPT, tuple(Candidate(spelled(rng, s)) for s in (GOOD, BAD)), meta={"id": i}) for i in range(n)]


def score(slate: Slate) -> list[float]:
    """1 where the good symbol comes after the marker."""
    return [float(f"{MARKER} {GOOD}" in c.text) for c in slate.candidates]


GOLD = Scored(score, "gold")


def located(policy: Any, contrasts: Sequence[Contrast]) -> tuple[Batch, np.ndarray]:
    """The contrasts as a language model's batch, and (N, T) whether a token is the one after the marker."""
    batch = collate_contrasts(contrasts, encode_contrasts(policy, contrasts, Limits()))
    after_NT = np.zeros(tuple(batch.mask_NT.shape), dtype=bool)
    for n, row in enumerate(batch.rows):
        words = [policy.tokenizer.decode([i]).strip() for i in row.response]
        after_NT[n, words.index(MARKER) + 1] = True
    return batch, after_NT
