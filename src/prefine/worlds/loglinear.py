"""Labels of a known log-linear reward: pairs with random features, some of them turned round. For claims about noise.

The policy is pi(a|x) ~ exp(theta . phi(x, a)), the reference uniform, so with beta = 1 an objective's implicit
reward difference is theta . (phi_w - phi_l), and the theta that made the labels is the right answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate, labels, scores


@dataclass(frozen=True)
class LogLinear:
    """``pairs`` pairs over ``prompts`` prompts of ``actions`` actions with N(0, 1) features; |theta| = ``norm``.

    A label is drawn from Bradley and Terry's sigma(theta . difference), then flipped with the rate of its annotator.

    >>> world = LogLinear(pairs=4, dimensions=2, flips=(0.0, 0.4))
    >>> [slate.meta["annotator"] for slate in world.slates()], world.flipped.shape
    (['0', '1', '0', '1'], (4,))
    """

    pairs: int = 2000
    dimensions: int = 5
    flips: tuple[float, ...] = (0.3,)
    """The rate of wrong labels of every annotator; they label in turn."""
    norm: float = 2.0
    prompts: int = 100
    actions: int = 12
    seed: int = 0

    @cached_property
    def theta(self) -> np.ndarray:
        drawn = np.random.default_rng([self.seed, 0]).normal(size=self.dimensions)
        return self.norm * drawn / np.linalg.norm(drawn)

    @cached_property
    def features(self) -> np.ndarray:
        return np.random.default_rng([self.seed, 1]).normal(size=(self.prompts, self.actions, self.dimensions))

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(prompt, better action, worse action, flipped) of every pair; "better" before the flip."""
        rng = np.random.default_rng([self.seed, 2])
        x = rng.integers(self.prompts, size=self.pairs)
        a = rng.integers(self.actions, size=self.pairs)
        b = (a + rng.integers(1, self.actions, size=self.pairs)) % self.actions
        gap = (self.features[x, a] - self.features[x, b]) @ self.theta
        first = rng.random(self.pairs) < 1 / (1 + np.exp(-gap))
        rates = np.resize(np.asarray(self.flips), self.pairs)
        return x, np.where(first, a, b), np.where(first, b, a), rng.random(self.pairs) < rates

    @property
    def flipped(self) -> np.ndarray:
        """Which labels are wrong."""
        return self._drawn[3]

    def slates(self) -> Iterator[Slate]:
        """One slate a pair, the one preferred by the label first; who labelled it is in ``meta``."""
        for i, (x, better, worse, flipped) in enumerate(zip(*self._drawn, strict=True)):
            chosen, rejected = (worse, better) if flipped else (better, worse)
            two = (Candidate(str(chosen)), Candidate(str(rejected)))
            meta = {"id": str(i), "annotator": str(i % len(self.flips))}
            yield Slate(f"x{x}", two, {"preferred": labels([True, False])}, meta)

    def lists(self, first: int, last: int, n: int = 4, noise: float = 0.0) -> Iterator[Slate]:
        """n different actions of each of the prompts first .. last - 1, with the reward plus N(0, noise) as "score".

        >>> [len(slate) for slate in LogLinear().lists(0, 2)]
        [4, 4]
        """
        rng = np.random.default_rng([self.seed, 3, first])
        for x in range(first, last):
            actions = rng.choice(self.actions, n, replace=False)
            found = self.features[x, actions] @ self.theta + noise * rng.normal(size=n)
            some = tuple(Candidate(str(a)) for a in actions)
            yield Slate(f"x{x}", some, {"score": scores(found.tolist())}, {"id": f"x{x}"})

    def base(self, folder: Path) -> Path:
        """Directory of the uniform policy with theta = 0."""
        path = folder / f"loglinear-{self.prompts}-{self.actions}-{self.dimensions}-{self.seed}"
        if not path.exists():
            names, actions = [f"x{i}" for i in range(self.prompts)], [str(i) for i in range(self.actions)]
            Tabular(names, actions, features_PAD=self.features).save(path)
        return path

    def error(self, policy: Tabular) -> float:
        """|theta - truth| / |truth|."""
        theta = policy.module.theta_D.detach().numpy()  # type: ignore[union-attr,operator]
        return float(np.linalg.norm(theta - self.theta) / self.norm)

    def accuracy(self, policy: Tabular) -> float:
        """Share of the pairs whose clean label the policy agrees with."""
        x, better, worse, _ = self._drawn
        logp = policy.logp_PA().detach().numpy()
        return float((logp[x, better] > logp[x, worse]).mean())
