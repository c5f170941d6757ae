"""A contextual dueling bandit with a known function, most of whose contexts are easy. For claims about exploration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefine.selecting.dueling import Played, rbf


@dataclass(frozen=True)
class Duels:
    """``hard`` contexts have a smooth strength r(x, a) of their own over the actions; in all others every action is as
    good as any, and all of them are one point to the kernel. P(a beats a' | x) = sigma( r(x, a) - r(x, a') ).

    >>> world = Duels()
    >>> world.beats.shape, world.is_hard.sum().item(), float(world.borda[-1].max())
    ((20, 16, 16), 4, 0.5)
    """

    contexts: int = 20
    hard: int = 4
    actions: int = 16
    strength: float = 3.0
    scale: float = 0.15
    """How far apart actions are that are alike, on [0, 1]."""
    seed: int = 0

    @property
    def is_hard(self) -> np.ndarray:
        return np.arange(self.contexts) < self.hard

    @property
    def points(self) -> np.ndarray:
        """(contexts x actions, 2): far apart for two hard contexts, one place for the easy ones."""
        context = np.where(self.is_hard, 10.0 * (1 + np.arange(self.contexts)), 0.0)
        action = np.linspace(0, 1, self.actions)[None] * self.is_hard[:, None]
        return np.stack([np.broadcast_to(context[:, None], action.shape), action], -1).reshape(-1, 2)

    @property
    def kernel(self) -> np.ndarray:
        return rbf(self.points, self.scale)

    @property
    def beats(self) -> np.ndarray:
        """(X, A, A)."""
        rng = np.random.default_rng([self.seed, 0])
        own = np.linspace(0, 1, self.actions)[:, None]
        smooth = np.linalg.cholesky(rbf(own, self.scale, 1.0) + 1e-8 * np.eye(self.actions))
        r = self.strength * (rng.normal(size=(self.contexts, self.actions)) @ smooth.T) * self.is_hard[:, None]
        return 1 / (1 + np.exp(r[:, None] - r[:, :, None]))

    @property
    def borda(self) -> np.ndarray:
        """(X, A) f(x, a), the mean over all actions a' of P(a beats a')."""
        return self.beats.mean(-1)

    def regret(self, played: Played) -> float:
        """max_x [ max_a f(x, a) - f(x, pi(x)) ]."""
        f = self.borda
        return float((f.max(1) - f[np.arange(self.contexts), played.choice_X]).max())
