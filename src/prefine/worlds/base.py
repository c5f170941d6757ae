"""What a world is: a small task with a known gold reward, prompts, annotators and a base policy.

The gold reward is for measuring. A method sees it only through the judge it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prefine.judging.base import Judge
from prefine.slate import Slate


@dataclass(frozen=True)
class World:
    """One embedded task. ``prompts(split, n, seed)`` gives bare slates; train and test never overlap."""

    name: str
    summary: str
    prompts: Callable[[str, int, int], list[Slate]]
    """(split "train" or "test", how many, seed) -> prompts; ``meta`` carries ``id`` and what judges need."""
    gold: Judge
    """Adds the column "gold" (one number a response; higher is better)."""
    annotators: Mapping[str, Judge]
    """By name: "perfect" (default), "noisy", "length-biased", "several", "cyclic", ... A judge that adds the
    column "score" (one number a response, what this annotator would say)."""
    base: Callable[[Path], Path]
    """Directory to cache in -> directory of the trained base policy (made when missing, same bits each time)."""
    demonstrate: Callable[[Slate, random.Random], str] | None = None
    """A good response, for supervised fine-tuning (None where the world has none)."""
    verifier: Judge | None = None
    """Adds the column "verified": +1 right, 0 wrong but well-formed, -1 malformed (checkable worlds only)."""
    preference: Judge | None = None
    """Adds the table column "preference" (K x K win probabilities)."""
    attributes: Mapping[str, Judge] = field(default_factory=dict)
    """Gold by aspect, each a judge that adds a column of its own name."""
    judges: Mapping[str, Judge] = field(default_factory=dict)
    """Judges as ``--judge`` names them, for a base that can judge: they ask it in the words it has learnt, where those
    of ``judging.names`` would mean nothing to it."""
    max_tokens: int = 48
    """How many new tokens a response may have."""
