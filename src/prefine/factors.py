"""What each factor of an experiment does, when several are varied and not every arm has all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

Levels = Mapping[str, str]
"""Factor -> the level that an arm has it at."""


def gap(arms: Sequence[tuple[Levels, float]], factor: str, one: str, other: str) -> float:
    """How much higher arms at a level are than those at another, the mean over couples that are otherwise alike.

    Alike where both have the factor: DPO has no reward model, so it is compared with PPO under each of them.

    >>> arms = [({"data": "a", "size": "1"}, 3.0), ({"data": "b", "size": "1"}, 1.0), ({"data": "b", "size": "2"}, 0.0)]
    >>> gap(arms, "data", "a", "b"), gap(arms, "size", "1", "2")
    (2.0, 1.0)
    """
    gaps = [
        x - y for levels, x in arms for others, y in arms
        if levels.get(factor) == one and others.get(factor) == other
        and all(levels[name] == others[name] for name in levels.keys() & others.keys() - {factor})
    ]  # fmt: skip
    return float(np.mean(gaps)) if gaps else 0.0


def effects(arms: Sequence[tuple[Levels, float]]) -> dict[str, float]:
    """Factor -> the largest gap between two of its levels."""
    levels: dict[str, dict[str, None]] = defaultdict(dict)
    for have, _ in arms:
        for factor, level in have.items():
            levels[factor][level] = None
    return {
        factor: max((abs(gap(arms, factor, a, b)) for a, b in combinations(found, 2)), default=0.0)
        for factor, found in levels.items()
    }
