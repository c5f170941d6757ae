"""Rows of words of which some are key words, preferred for how many they have. For claims about degrees of content.

The two rows of a pair are of one length, so length says nothing of preference; the base has seen rows of every
length, so a row may end anywhere.
"""

from __future__ import annotations

import random
from pathlib import Path

from prefine.judging.base import Scored
from prefine.slate import Candidate, Slate
from prefine.worlds.pretrain import Settings, pretrained

FILLERS = tuple("abcdefghi")
KEYS = tuple("PQRSTUVWX")
PROMPT, SHORTEST, LONGEST, FEWEST = "say:", 8, 16, 3
SMALL = Settings(steps=300, rows=32, width=48, layers=2, heads=4, context=32, words=400)


def spelled(rng: random.Random, length: int) -> str:
    """Words at random, key words or others.

    >>> spelled(random.Random(0), 6)
    ' V i e U S T'
    """
    return "".join(f" {rng.choice(FILLERS if rng.random() < 0.5 else KEYS)}" for _ in range(length))


def write(rng: random.Random) -> tuple[str, str]:
    """One example of the base's training: (prompt, response), of any length."""
    return PROMPT, spelled(rng, rng.randint(1, LONGEST))


def base(cache: Path) -> Path:
    """Directory of the base policy."""
    return pretrained(cache, "key-words", write, SMALL)


def slates(n: int, seed: int) -> list[Slate]:
    """Two rows each, of one length, with different numbers of key words, ``FEWEST`` different ones at least."""
    rng = random.Random(f"key words {seed}")
    made: list[Slate] = []
    while len(made) < n:
        length = rng.randint(SHORTEST, LONGEST)
        rows = tuple(Candidate(spelled(rng, length)) for _ in range(2))
        two = Slate(PROMPT, rows, meta={"id": f"{seed}-{len(made)}"})
        different = [len(set(KEYS) & set(c.text.split())) for c in two.candidates]
        if min(different) >= FEWEST and len(set(score(two))) == 2:
            made.append(two)
    return made


def score(slate: Slate) -> list[float]:
    """How many key words."""
    return [float(sum(word in KEYS for word in c.text.split())) for c in slate.candidates]


GOLD = Scored(score)
