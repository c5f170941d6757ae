"""Which prompts are held out: decided by a hash of the prompt, so that it is the same whatever the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from prefine.slate import Slate, prompt_to_json

SHARE, LEAST, MOST = 0.1, 8, 200
"""A tenth, at least 8 and at most 200, and never more than a third of what there is."""


def place(slate: Slate) -> str:
    """The hash that decides. Of the prompt itself: the same prompt under two ids stays on one side."""
    return hashlib.sha256(json.dumps(prompt_to_json(slate.prompt), sort_keys=True).encode()).hexdigest()[:24]


def held_out(slates: Iterable[Slate]) -> frozenset[str]:
    """The places of the prompts to hold out: those with the smallest hashes.

    >>> len(held_out([Slate(f"prompt {i}") for i in range(100)]))
    10
    """
    places = sorted({place(slate) for slate in slates})
    count = min(max(LEAST, min(MOST, round(SHARE * len(places)))), len(places) // 3)
    return frozenset(places[:count])
