"""Responses with a far tail: a few are broken in a way that is easy to tell. For claims about what to learn from.

The policy is log-linear, its start uniform. A response's features are D directions, of which one combination is its
gold reward, and a flag for the broken ones, whose gold is far below that of all others. Telling a broken response from
a sound one takes the flag alone, and teaches nothing about the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate


@dataclass(frozen=True)
class Tails:
    """``broken`` of the ``actions`` of every prompt have the flag and a gold of about ``depth``.

    >>> world = Tails(prompts=2, actions=10, broken=1)
    >>> world.gold_PA.shape, bool((world.gold_PA[:, :1] < -4).all())
    ((2, 10), True)
    """

    prompts: int = 64
    actions: int = 64
    broken: int = 2
    dimensions: int = 8
    depth: float = -6.0
    flag: float = 5.0
    seed: int = 0

    @cached_property
    def features_PAD(self) -> np.ndarray:
        """The first ``broken`` actions have the flag, the last feature."""
        shape = (self.prompts, self.actions, self.dimensions)
        drawn = np.random.default_rng([self.seed, 0]).normal(size=shape)
        flags = np.zeros((self.prompts, self.actions, 1))
        flags[:, : self.broken] = self.flag
        return np.concatenate([drawn, flags], -1)

    @cached_property
    def gold_PA(self) -> np.ndarray:
        theta = np.random.default_rng([self.seed, 1]).normal(size=self.dimensions)
        gold = self.features_PAD[..., :-1] @ (theta / np.linalg.norm(theta))
        gold[:, : self.broken] = self.depth + 0.1 * gold[:, : self.broken]
        return gold

    def slates(self) -> list[Slate]:
        return [Slate(f"x{p}", meta={"id": f"x{p}"}) for p in range(self.prompts)]

    def score(self, slate: Slate) -> Sequence[float]:
        row = self.gold_PA[int(str(slate.prompt)[1:])]
        return [float(row[int(c.text)]) for c in slate.candidates]

    @property
    def judge(self) -> Judge:
        return Scored(self.score)

    def base(self, folder: Path) -> Path:
        """Directory of the uniform policy."""
        path = folder / f"tails-{self.seed}-{self.prompts}-{self.actions}-{self.broken}-{self.dimensions}-{self.flag:g}"
        if not path.exists():
            names, actions = [str(s.prompt) for s in self.slates()], [str(a) for a in range(self.actions)]
            Tabular(names, actions, features_PAD=self.features_PAD).save(path)
        return path

    def value(self, policy: Tabular) -> float:
        """Expected gold reward, over the prompts."""
        return float(policy.expected(self.gold_PA).mean())
