"""Which of some numbers to keep: the k smallest, the k largest, from the middle, from both ends, any."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

Ranking = Callable[[Sequence[float | None], int, random.Random], list[int]]
"""(a number a row, how many, random source) -> indices to keep, rising. None: nothing is known of a row; such rows
come last."""


def smallest(values: Sequence[float | None], k: int, rng: random.Random) -> list[int]:
    """Ties go to the first.

    >>> smallest([2.0, 1.0, None, 1.0, 1.0], 2, random.Random(0))
    [1, 3]
    """
    return sorted(_by(values, lambda v: v)[:k])


def largest(values: Sequence[float | None], k: int, rng: random.Random) -> list[int]:
    """
    >>> largest([2.0, 1.0, None, 3.0], 2, random.Random(0))
    [0, 3]
    """
    return sorted(_by(values, lambda v: -v)[:k])


def middle(values: Sequence[float | None], k: int, rng: random.Random) -> list[int]:
    """Around the median rank.

    >>> middle([5.0, 1.0, 2.0, 4.0, 3.0], 3, random.Random(0))
    [2, 3, 4]
    """
    known = sum(v is not None for v in values)
    order = _by(values, lambda v: v)
    start = max(0, (known - k) // 2)
    return sorted((order[start:known] + order[known:])[:k])


def tails(values: Sequence[float | None], k: int, rng: random.Random) -> list[int]:
    """From both ends; the odd one is a large one.

    >>> tails([5.0, 1.0, 2.0, 4.0, 3.0], 3, random.Random(0))
    [0, 1, 3]
    """
    known = sum(v is not None for v in values)
    order, k_small = _by(values, lambda v: v), min(k, known) // 2
    ends = order[:k_small] + order[max(k_small, known - (min(k, known) - k_small)) : known]
    return sorted(ends + order[known : known + k - len(ends)])


def at_random(values: Sequence[float | None], k: int, rng: random.Random) -> list[int]:
    """Any k, whatever the values."""
    return sorted(rng.sample(range(len(values)), k))


def _by(values: Sequence[float | None], key: Callable[[float], float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: (values[i] is None, 0.0 if values[i] is None else key(values[i])))  # type: ignore[arg-type]


RANKINGS: Mapping[str, Ranking] = {
    "smallest": smallest, "largest": largest, "middle": middle, "tails": tails, "random": at_random,
}  # fmt: skip
