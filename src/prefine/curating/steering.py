"""Pairs made by contrasting principles: seen under each prompt, filtered by likelihood, in three slots (SSO)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefine.registry import between, one_of
from prefine.slate import CHOSEN, OTHER, REJECTED, Contrast, Slate, group

MEMBERS = ("y+|x", "y-|x", "y+|s+", "y-|s+", "y+|s-", "y-|s-", "y0|s-")
THIRD = {"released": (6, 4), "expected": (5, 4)}
"""Who is preferred to y+ under the bad principle: y0, as the release has it, or y-, as one would expect."""


def steering_views(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """Each of (y+, y-, y0) under the prompts it is looked at (``MEMBERS``), to be scored. Equal texts give nothing."""
    for slate in slates:
        good, bad, plain = slate.candidates
        if len({good.text, bad.text, plain.text}) < 3:
            continue
        prompts = (None, good.prompt, bad.prompt)
        rows = [replace(c, prompt=p, logps=None) for p in prompts for c in (good, bad)]
        rows.append(replace(plain, prompt=bad.prompt, logps=None))
        yield group(Slate(slate.prompt, tuple(rows), {}, slate.meta), range(7), [OTHER] * 7)


@dataclass(frozen=True)
class SteeredPairs:
    """Called with views and their log-probabilities: see ``steered``."""

    rules: int
    third: tuple[int, int]

    def __call__(self, views: Iterable[Contrast], logps: Any, rng: random.Random) -> Iterator[Contrast]:
        views = list(views)
        means = np.array([[float(np.mean(tokens, dtype=np.float64)) for tokens in of_one] for of_one in logps])
        members = (0, 1, 2, 3, *self.third)
        for i in followed(means[:, :6], self.rules):
            slots = (0.0, 0.0, 1.0, 1.0, 2.0, 2.0)
            yield group(views[i].slate, members, (CHOSEN, REJECTED) * 3, slot=slots)


def followed(means: np.ndarray, rules: int = 3) -> list[int]:
    """The rows that the first so many rules keep, each among those the one before has kept.

    Columns: mean log-probability a token of y+ and y- under x, s+, s- in turn (o, p, n).
    1  p(y+) > o(y+) > n(y+) and n(y-) > o(y-) > p(y-): each is likeliest where it was asked for
    2  o(y+) and o(y-) are at least their averages: near what the policy says unasked
    3  p(y+) - n(y+) and n(y-) - p(y-) are above their averages: the gap is clear
    """
    o, p, n = means[:, 0:2], means[:, 2:4], means[:, 4:6]
    rows = np.arange(len(means))
    if rules >= 1:
        up = (p[:, 0] > o[:, 0]) & (o[:, 0] > n[:, 0])
        rows = rows[up & (n[:, 1] > o[:, 1]) & (o[:, 1] > p[:, 1])]
    if rules >= 2 and len(rows):
        rows = rows[(o[rows] >= o[rows].mean(0)).all(1)]
    if rules >= 3 and len(rows):
        gap = np.stack([p[rows, 0] - n[rows, 0], n[rows, 1] - p[rows, 1]], 1)
        rows = rows[(gap > gap.mean(0)).all(1)]
    return [int(i) for i in rows]


def steered(rules: int = 3, third: str = "released") -> SteeredPairs:
    """Of ``steering_views`` and their ``run.logps`` under the policy that wrote them: contrasts of three pairs in slots
    for ``objectives.steered``: (y+, y-) under x, (y+, y-) under s+, and ``third`` against y+ under s-."""
    between(0, 4, rules=rules)
    return SteeredPairs(rules, one_of("third", third, THIRD))
