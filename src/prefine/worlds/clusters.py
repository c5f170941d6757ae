"""Prompts whose sampled responses are near duplicates of a few, with odd ones among them. For claims about annotation.

Every prompt has kinds of responses of its own: a kind is a point in D directions, its responses lie close around it,
and one combination of the directions is the gold reward, the same for all prompts. The policy is log-linear in the
directions and uniform at first, so these are also what its "states" say of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prefine.curating.vectors import cosine
from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate


@dataclass(frozen=True)
class Clusters:
    """``actions`` responses a prompt, ``odd`` of them alone and bad, the others of ``kinds`` kinds of unlike size.

    >>> world = Clusters(prompts=2, actions=10, odd=1)
    >>> world.features_PAD.shape, world.gold_PA.shape
    ((2, 10, 8), (2, 10))
    """

    prompts: int = 96
    actions: int = 40
    kinds: int = 5
    odd: int = 3
    dimensions: int = 8
    within: float = 0.15
    seed: int = 0

    @cached_property
    def theta(self) -> np.ndarray:
        drawn = np.random.default_rng([self.seed, 1]).normal(size=self.dimensions)
        return drawn / np.linalg.norm(drawn)

    @cached_property
    def features_PAD(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0])
        found = []
        for _ in range(self.prompts):
            centres = rng.normal(size=(self.kinds, self.dimensions))
            of = rng.choice(self.kinds, size=self.actions - self.odd, p=rng.dirichlet([3.0] * self.kinds))
            close = centres[of] + self.within * rng.normal(size=(len(of), self.dimensions))
            odd = rng.normal(size=(self.odd, self.dimensions))
            odd -= (odd @ self.theta + 1.0)[:, None] * self.theta  # a gold of -1
            found.append(np.concatenate([close, odd]))
        return np.stack(found)

    @cached_property
    def gold_PA(self) -> np.ndarray:
        return self.features_PAD @ self.theta

    def slates(self) -> list[Slate]:
        return [Slate(f"x{p}", meta={"id": f"x{p}"}) for p in range(self.prompts)]

    def score(self, slate: Slate) -> Sequence[float]:
        row = self.gold_PA[int(str(slate.prompt)[1:])]
        return [float(row[int(c.text)]) for c in slate.candidates]

    def annotator(self, scale: float = 2.0) -> Judge:
        """Labels drawn from Bradley and Terry's probabilities."""
        return BradleyTerry(Scored(self.score), scale=scale, sampled=True, seed=self.seed)

    def base(self, folder: Path) -> Path:
        """Directory of the uniform policy."""
        numbers = (self.seed, self.prompts, self.actions, self.kinds, self.odd, self.dimensions, self.within)
        path = folder / f"clusters-{'-'.join(f'{n:g}' for n in numbers)}"
        if not path.exists():
            names, actions = [str(s.prompt) for s in self.slates()], [str(a) for a in range(self.actions)]
            Tabular(names, actions, features_PAD=self.features_PAD).save(path)
        return path

    def value(self, policy: Tabular) -> float:
        """Expected gold reward, over the prompts."""
        return float(policy.expected(self.gold_PA).mean())

    def told(self, slate: Slate) -> tuple[float, float]:
        """(gap in gold, cosine) of the first two responses of a slate."""
        row, (a, b) = int(str(slate.prompt)[1:]), (int(c.text) for c in slate.candidates[:2])
        return abs(float(self.gold_PA[row, a] - self.gold_PA[row, b])), float(
            cosine(self.features_PAD[row, [a, b]])[0, 1]
        )
