"""How wrong a logistic fit is after every way of choosing what to label: optimal designs by arithmetic alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from prefine.curating.elliptical import maximum_likelihood
from prefine.selecting.optimal import Inverse, curvature, doubling, greedy
from prefine.worlds.linear_pool import LinearPool

COUNTS = (40, 80, 160, 320)


def errors(world: LinearPool) -> dict[str, float]:
    """max_i |phi_i . (theta_n - theta*)| of every way to choose n of the pool's pairs; theta_n has the ridge of its
    prior, d / |theta|^2."""
    d, ridge, gamma = world.dimensions, world.dimensions / world.norm**2, 0.01
    phi, rng = world.features[:, 0] - world.features[:, 1], np.random.default_rng([world.seed, 9])
    signs = np.where(rng.random(len(phi)) < 1 / (1 + np.exp(-phi @ world.theta)), 1.0, -1.0)

    def fit(rows: list[int]) -> np.ndarray:
        return maximum_likelihood(signs[rows, None] * phi[rows], lam=ridge)

    def weighted(theta: np.ndarray) -> np.ndarray:
        return np.array([curvature(1.0, d) for d in phi @ theta])[:, None] * phi

    def grown(choose: Callable[[np.ndarray, np.ndarray, int], list[int]]) -> list[int]:
        taken: list[int] = []
        for k in doubling(max(COUNTS), 8):
            theta = fit(taken) if taken else np.zeros(d)
            left = np.setdiff1d(np.arange(len(phi)), taken)
            taken += [int(left[i]) for i in choose(theta, left, k)]
        return taken

    source, inverse = random.Random(world.seed), Inverse(np.eye(d) / gamma)
    orders = {
        "uniform": source.sample(range(len(phi)), max(COUNTS)),
        "plus": greedy(weighted(fit(list(range(len(phi))))), max(COUNTS), Inverse(np.eye(d) / gamma), subset=256,
                       rng=source),
        "adpo": grown(lambda theta, left, k: greedy(weighted(theta)[left], k, inverse, subset=256, rng=source)),
        "pmc": grown(lambda theta, left, k: np.argsort(-abs(phi[left] @ theta), kind="stable")[:k].tolist()),
    }  # fmt: skip
    return {
        f"{name}_{n}": float(np.abs(phi @ (fit(order[:n]) - world.theta)).max())
        for name, order in orders.items()
        for n in COUNTS
    }
