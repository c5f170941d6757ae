"""Uncertainty of a linear preference model: the elliptical norm that pessimism and exploration share.

With feature differences z_i = phi(x, a1) - phi(x, a2) of the labelled pairs,

    Sigma = lam I + sum z_i z_i^T,     ||v||_{Sigma^-1} = sqrt( v^T Sigma^-1 v )

A direction seen often has a small norm; the width of the confidence interval of <theta, v> is proportional to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Covariance:
    """Sigma, kept as its matrix. ``add`` gives a new one.

    >>> seen = Covariance.ridge(2, 1.0).add(np.array([[3.0, 0.0]]))
    >>> float(seen.norm(np.array([1.0, 0.0])).round(4)), float(seen.norm(np.array([0.0, 1.0])))
    (0.3162, 1.0)
    """

    sigma_DD: np.ndarray

    @staticmethod
    def ridge(dimensions: int, lam: float = 1.0) -> Covariance:
        return Covariance(lam * np.eye(dimensions))

    def add(self, differences_ND: np.ndarray) -> Covariance:
        return Covariance(self.sigma_DD + differences_ND.T @ differences_ND)

    def norm(self, v: np.ndarray) -> np.ndarray:
        """||v||_{Sigma^-1} of one vector or of the last axis of several."""
        solved = np.linalg.solve(self.sigma_DD, np.moveaxis(np.atleast_2d(v), -1, 0).reshape(len(self.sigma_DD), -1))
        flat = np.atleast_2d(v).reshape(-1, len(self.sigma_DD))
        norms = np.sqrt(np.maximum((flat * solved.T).sum(-1), 0.0))
        return norms.reshape(np.shape(v)[:-1])


def maximum_likelihood(differences_ND: np.ndarray, lam: float = 1e-3, steps: int = 50) -> np.ndarray:
    """theta = argmax sum log sigma(<theta, z_i>) - lam/2 ||theta||^2, z_i = phi(preferred) - phi(other); by Newton.

    The ridge keeps it finite when all labels agree.

    >>> maximum_likelihood(np.array([[1.0], [1.0], [1.0], [-1.0]]), lam=0.0).round(6).tolist()  # log 3
    [1.098612]
    """
    theta_D = np.zeros(differences_ND.shape[1])
    for _ in range(steps):
        doubt_N = 1 / (1 + np.exp(np.clip(differences_ND @ theta_D, -500, 500)))
        slope_D = differences_ND.T @ doubt_N - lam * theta_D
        bend_DD = (differences_ND.T * (doubt_N * (1 - doubt_N))) @ differences_ND + lam * np.eye(len(theta_D))
        move_D = np.linalg.solve(bend_DD, slope_D)
        theta_D = theta_D + move_D * min(1.0, 1.0 / max(float(np.abs(move_D).max()), 1e-12))  # no leaps
        if np.abs(move_D).max() < 1e-12:
            break
    return theta_D


def pessimistic(reward: np.ndarray, phi: np.ndarray, nu: np.ndarray, seen: Covariance, width: float) -> np.ndarray:
    """r_hat(x, a) = <theta, phi> - width ||phi(x, a) - nu||_{Sigma^-1}: option II of arXiv 2312.11456.

    >>> one = Covariance.ridge(1)
    >>> pessimistic(np.array([1.0, 1.0]), np.array([[0.0], [2.0]]), np.zeros(1), one, 0.5).tolist()
    [1.0, 0.0]
    """
    return reward - width * seen.norm(phi - nu)
