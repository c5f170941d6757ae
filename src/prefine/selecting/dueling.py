"""AE-Borda: which context to compare in, for a contextual dueling bandit with a kernel (arXiv 2312.00267).

    f(x, a) = E_{a' uniform} P(a beats a' | x)                                        the Borda value
    mu_t, s_t: kernel ridge of the outcomes w on (x, a);   UCB, LCB = mu_t +- width s_t
    x_t = argmax_x [ max_a UCB(x, a) - max_a LCB(x, a) ],   a_t = argmax_a UCB(x_t, a),   a'_t uniform
    w_t ~ Bernoulli P(a_t beats a'_t);   what comes out: pi(x) = argmax_a max_t LCB_t(x, a)

With a uniform rival w is an unbiased look at f(x_t, a_t): a comparison is one observation of one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class KernelRidge:
    """A Gaussian posterior on finitely many points, one observation at a time: O(N^2) each.

    The same numbers as mu = m + k (K + noise I)^-1 (w - m) and s^2 = k(z, z) - k (K + noise I)^-1 k.
    """

    mean_N: np.ndarray
    covariance_NN: np.ndarray
    noise: float = 0.25
    """Variance of an observation: of a coin at most 1/4."""

    def add(self, at: int, value: float) -> None:
        column_N = self.covariance_NN[:, at].copy()
        gain_N = column_N / (column_N[at] + self.noise)
        self.mean_N = self.mean_N + gain_N * (value - self.mean_N[at])
        self.covariance_NN = self.covariance_NN - np.outer(gain_N, column_N)

    @property
    def deviation_N(self) -> np.ndarray:
        return np.sqrt(np.maximum(np.diag(self.covariance_NN), 0))


def rbf(points_ND: np.ndarray, scale: float = 1.0, height: float = 0.1) -> np.ndarray:
    """height * exp(-|z - z'|^2 / (2 scale^2))."""
    square_NN = ((points_ND[:, None] - points_ND[None]) ** 2).sum(-1)
    return height * np.exp(-square_NN / (2 * scale**2))


@dataclass(frozen=True)
class Played:
    """What a bandit came to: the action it names in every context, and the contexts it asked in."""

    choice_X: np.ndarray
    asked_T: np.ndarray


def play(
    beats_XAA: np.ndarray,
    kernel_NN: np.ndarray,
    rounds: int,
    rng: np.random.Generator,
    *,
    active: bool = True,
    width: float = 1.0,
    noise: float = 0.25,
) -> Played:
    """AE-Borda on known probabilities of winning, points in the order (context, action); ``active=False``: contexts
    uniformly at random, everything else alike."""
    contexts, actions, _ = beats_XAA.shape
    seen = KernelRidge(np.full(contexts * actions, 0.5), kernel_NN, noise)
    surest_XA, asked = np.full((contexts, actions), -np.inf), []
    for _ in range(rounds):
        upper, lower = bounds(seen, width, contexts)
        surest_XA = np.maximum(surest_XA, lower)
        x = int(np.argmax(upper.max(1) - lower.max(1))) if active else int(rng.integers(contexts))
        a, rival = int(np.argmax(upper[x])), int(rng.integers(actions))
        seen.add(x * actions + a, float(rng.random() < beats_XAA[x, a, rival]))
        asked.append(x)
    surest_XA = np.maximum(surest_XA, bounds(seen, width, contexts)[1])
    return Played(surest_XA.argmax(1), np.array(asked))


def bounds(seen: KernelRidge, width: float, contexts: int) -> tuple[np.ndarray, np.ndarray]:
    """(X, A) upper and lower confidence bounds."""
    wide_N = width * seen.deviation_N
    return (seen.mean_N + wide_N).reshape(contexts, -1), (seen.mean_N - wide_N).reshape(contexts, -1)
