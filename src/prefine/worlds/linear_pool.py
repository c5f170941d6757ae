"""A pool to choose from: prompts with responses of known features and a known linear reward. For claims about labels.

    reward(x, y) = theta . phi(x, y),   P(y1 beats y2) = sigma( reward difference ),   pi_0(y|x) ~ exp(theta_0 . phi)

Some directions of the features are long and some short, and their lengths are heavy-tailed, so labels are not equally
informative. DPO with beta converges to theta_0 + theta / beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate


@dataclass(frozen=True)
class LinearPool:
    """``prompts`` prompts with ``actions`` responses each.

    >>> pool = LinearPool(prompts=3, actions=2, dimensions=4)
    >>> pool.features.shape, len(pool.pairs()), pool.gold([pool.pairs()[0]])[0]["gold"].kind
    ((3, 2, 4), 3, 'score')
    """

    prompts: int = 2000
    actions: int = 2
    dimensions: int = 20
    shortest: float = 0.3
    """Length of the shortest direction, the longest being 1."""
    tail: float = 4.0
    """Degrees of freedom of the lengths of responses: small, heavy tails."""
    norm: float = 3.0
    """|theta|."""
    start: float = 0.0
    """|theta_0|, of the policy at the start, in a direction of its own."""
    seed: int = 0

    @cached_property
    def theta(self) -> np.ndarray:
        return self._direction(0) * self.norm

    @cached_property
    def theta_0(self) -> np.ndarray:
        return self._direction(1) * self.start

    def _direction(self, which: int) -> np.ndarray:
        drawn = np.random.default_rng([self.seed, which]).normal(size=self.dimensions)
        return drawn / np.linalg.norm(drawn)

    @cached_property
    def features(self) -> np.ndarray:
        """(prompts, actions, dimensions), the mean square of a length about 1."""
        rng = np.random.default_rng([self.seed, 2])
        shape = (self.prompts, self.actions, self.dimensions)
        lengths = np.geomspace(1, self.shortest, self.dimensions)
        heavy = np.sqrt(self.tail / rng.chisquare(self.tail, size=shape[:2]))[..., None]
        drawn = rng.normal(size=shape) * lengths * heavy
        return drawn / np.sqrt((drawn**2).sum(-1).mean())

    @property
    def rewards(self) -> np.ndarray:
        """(prompts, actions)."""
        return self.features @ self.theta

    def bare(self) -> list[Slate]:
        return [Slate(f"x{i}", meta={"id": f"x{i}"}) for i in range(self.prompts)]

    def pairs(self) -> list[Slate]:
        """Every prompt with its first two responses."""
        two = (Candidate("0"), Candidate("1"))
        return [Slate(s.prompt, two, meta=s.meta) for s in self.bare()]

    def score(self, slate: Slate) -> list[float]:
        at = int(str(slate.prompt)[1:])
        return [float(self.rewards[at, int(c.text)]) for c in slate.candidates]

    @property
    def gold(self) -> Judge:
        return Scored(self.score, "gold")

    def oracle(self, scale: float = 1.0) -> Judge:
        """Bradley-Terry labels, one coin for every pair."""
        return BradleyTerry(self.gold, scale=scale, sampled=True, seed=self.seed)

    def base(self, folder: Path) -> Path:
        """Directory of the policy at the start."""
        path = folder / f"pool-{self.prompts}-{self.actions}-{self.dimensions}-{self.start:g}-{self.seed}"
        if not path.exists():
            names, actions = [f"x{i}" for i in range(self.prompts)], [str(i) for i in range(self.actions)]
            Tabular(names, actions, features_PAD=self.features, theta_D=self.theta_0).save(path)
        return path

    def accuracy(self, policy: Any, reference: Any) -> float:
        """Share of all pairs of responses that the implicit reward orders as the gold reward does."""
        ratio, gold = (policy.logp_PA() - reference.logp_PA()).detach().numpy(), self.rewards
        first, second = np.triu_indices(self.actions, 1)
        return float((((ratio[:, first] - ratio[:, second]) * (gold[:, first] - gold[:, second])) > 0).mean())

    def value(self, policy: Any) -> float:
        """Expected gold reward, exactly."""
        return float(policy.expected(self.rewards).mean())

    def win_rate(self, policy: Any, start: Any) -> float:
        """P(a response of the policy beats one of the start by the gold reward), ties half, exactly."""
        ours, theirs = policy.probabilities_PA().numpy(), start.probabilities_PA().numpy()
        gold = self.rewards
        beats = (gold[:, :, None] > gold[:, None]) + 0.5 * (gold[:, :, None] == gold[:, None])
        return float(np.einsum("pa,pab,pb->p", ours, beats, theirs).mean())
