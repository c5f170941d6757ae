"""A bandit: one prompt, some responses with random gold rewards, a tabular base. For claims about exact policies."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Slate

PROMPT = "choose"


@dataclass(frozen=True)
class Bandit:
    """Rewards drawn from N(0, 1); the base is a softmax of N(0, spread) logits.

    >>> Bandit(actions=3, seed=1).prompts(2)[1].id
    'choose-1'
    """

    actions: int = 12
    seed: int = 0
    spread: float = 1.0

    @property
    def rewards(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 0]).normal(size=self.actions)

    @property
    def names(self) -> list[str]:
        return [str(i) for i in range(self.actions)]

    def prompts(self, n: int) -> list[Slate]:
        """The one prompt, n times."""
        return [Slate(PROMPT, meta={"id": f"{PROMPT}-{i}"}) for i in range(n)]

    def score(self, slate: Slate) -> list[float]:
        rewards = self.rewards
        return [float(rewards[int(c.text)]) for c in slate.candidates]

    @property
    def gold(self) -> Judge:
        return Scored(self.score, "gold")

    def labels(self, scale: float = 1.0) -> Judge:
        """Bradley-Terry labels, one coin for every pair."""
        return BradleyTerry(self.gold, scale=scale, sampled=True, seed=self.seed)

    def base(self, folder: Path) -> Path:
        """Directory of the base policy."""
        path = folder / f"bandit-{self.actions}-{self.seed}-{self.spread:g}"
        if not path.exists():
            logits = np.random.default_rng([self.seed, 1]).normal(scale=self.spread, size=(1, self.actions))
            beside = path.with_name(path.name + ".partial")
            shutil.rmtree(beside, ignore_errors=True)
            Tabular([PROMPT], self.names, logits).save(beside)
            beside.rename(path)
        return path

    def value(self, policy: Tabular) -> float:
        """Expected gold reward, exactly."""
        return float(policy.expected(self.rewards[None])[0])
