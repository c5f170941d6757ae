"""Curricula: the order in which contrasts are learnt from, and the stages they come in.

A curriculum is a difficulty (a number a contrast) and a number of stages. In one stage the contrasts come in that
order, each epoch the same; in several they are cut into as many parts, learnt from one after the other, in random
order within a part. ``shuffled`` is no curriculum.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefine import registry
from prefine.curating.with_values import WORKED_OUT, has, with_values
from prefine.errors import InputError
from prefine.registry import at_least
from prefine.slate import CHOSEN, REJECTED, Contrast

Difficulty = Callable[[Contrast], float]


@dataclass(frozen=True)
class Curriculum:
    """An order and its stages. ``difficulty``: easy is small; None: as they come."""

    difficulty: Difficulty | None = None
    stages: int = 1
    hard_first: bool = False
    keep: bool = False
    """Whether a stage goes on with what came before it."""
    shuffles: bool = False
    """Whether training mixes the contrasts of a stage."""

    @property
    def is_plain(self) -> bool:
        """Whether the contrasts stay as they are, in one stage."""
        return self.difficulty is None and self.stages == 1

    def stage(self, i: int) -> Stage:
        """The curator of the i-th stage's contrasts."""
        return Stage(self, i)

    def ordered(self, contrasts: Iterable[Contrast]) -> list[Contrast]:
        """Easy first (or hard first); equals stay in the order they came in."""
        rows = list(contrasts)
        if self.difficulty is None:
            return rows
        by = [self.difficulty(contrast) for contrast in rows]
        sign = -1.0 if self.hard_first else 1.0
        return [rows[i] for i in sorted(range(len(rows)), key=lambda i: sign * by[i])]


@dataclass(frozen=True)
class Stage:
    """The contrasts of one stage."""

    curriculum: Curriculum
    i: int

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        contrasts, stages = self.curriculum.ordered(rows), self.curriculum.stages
        if len(contrasts) < stages:
            raise InputError(f"{len(contrasts)} contrasts cannot be cut into {stages} stages", remedy="give fewer")
        edges = [round(k * len(contrasts) / stages) for k in range(stages + 1)]
        yield from contrasts[0 if self.curriculum.keep else edges[self.i] : edges[self.i + 1]]


# -- difficulties: easy is small


@dataclass(frozen=True)
class Valued:
    """A value of the contrasts (``with_values``); ``sign`` -1 where a large one is easy."""

    name: str
    sign: float = 1.0

    def __call__(self, contrast: Contrast) -> float:
        if not has(contrast, self.name):
            names = ", ".join(sorted({*contrast.values, *WORKED_OUT})) or "none"
            raise InputError(
                f"this curriculum orders by {self.name!r}, and {contrast.slate.id!r} has none",
                remedy=f"bring it as a column of the data, or order by something else (values: {names})",
            )
        (found,) = with_values(self.name)([contrast], random.Random(0))
        value = found.values[self.name]
        return self.sign * (max(value) if isinstance(value, tuple) else value)


def characters(contrast: Contrast) -> float:
    """Short responses are easy."""
    return float(sum(len(contrast.response(m)) for m in range(len(contrast.members))))


def similarity(contrast: Contrast) -> float:
    """Alike responses are hard: the share of three-letter sequences that chosen and rejected have in common.

    >>> from prefine.slate import Candidate, Slate, pair
    >>> similarity(pair(Slate("?", (Candidate("abcd"), Candidate("abce"))), 0, 1))
    0.3333333333333333
    """
    texts = [contrast.response(m) for m, role in enumerate(contrast.roles) if role in (CHOSEN, REJECTED)]
    return alike(texts[0], texts[-1]) if len(texts) > 1 else 0.0


def alike(a: str, b: str) -> float:
    """Jaccard similarity of the three-letter sequences of two texts: 1 for the same, 0 for nothing in common."""
    x, y = ({text[i : i + 3] for i in range(max(1, len(text) - 2))} for text in (a, b))
    return len(x & y) / len(x | y)


# -- by name


def shuffled() -> Curriculum:
    """A new random order each epoch: no curriculum."""
    return Curriculum(shuffles=True)


def plain(stages: int = 1) -> Curriculum:
    """The order of the data."""
    return _made(None, stages, False, False)


def by_margin(stages: int = 1, hard_first: bool = False, keep: bool = False) -> Curriculum:
    """Clear preferences first: by the gap of the scores, or a stated margin."""
    return _made(Valued("margin", -1.0), stages, hard_first, keep)


def by_length(stages: int = 1, hard_first: bool = False, keep: bool = False) -> Curriculum:
    """Short responses first."""
    return _made(characters, stages, hard_first, keep)


def by_similarity(stages: int = 1, hard_first: bool = False, keep: bool = False) -> Curriculum:
    """Responses that are unlike each other first."""
    return _made(similarity, stages, hard_first, keep)


def by_value(name: str = "level", stages: int = 1, hard_first: bool = False, keep: bool = False) -> Curriculum:
    """By a value of the data, small first: a level, a stage, a difficulty."""
    return _made(Valued(name), stages, hard_first, keep)


def _made(difficulty: Difficulty | None, stages: int, hard_first: bool, keep: bool) -> Curriculum:
    at_least(1, stages=stages)
    return Curriculum(difficulty, stages, hard_first, keep, shuffles=stages > 1)


CURRICULA: Mapping[str, Callable[..., Curriculum]] = {
    "shuffled": shuffled,
    "plain": plain,
    "margin": by_margin,
    "length": by_length,
    "similarity": by_similarity,
    "value": by_value,
}


def curriculum(spec: str | Mapping[str, Any]) -> Curriculum:
    """A curriculum from its text.

    >>> curriculum("margin(stages=3)").stages, curriculum("shuffled").shuffles
    (3, True)
    """
    name, options = registry.parse(spec)
    made: Curriculum = registry.make("curriculum", registry.look_up("curriculum", CURRICULA, name), name, options)
    return made
