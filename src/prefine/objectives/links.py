"""Links: how a margin becomes a loss. Elementwise, so the same link serves pairs, points and regressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prefine.registry import between

Link = Callable[[Tensor], Tensor]


def logistic(z: Tensor) -> Tensor:
    """-log sigmoid(z): the negative log-likelihood of Bradley and Terry.

    >>> round(float(logistic(torch.tensor(0.0))), 6)
    0.693147
    """
    return -F.logsigmoid(z)


def hinge(z: Tensor) -> Tensor:
    """max(0, 1 - z): SLiC (arXiv 2305.10425).

    >>> hinge(torch.tensor([0.25, 3.0])).tolist()
    [0.75, 0.0]
    """
    return torch.relu(1 - z)


def squared(z: Tensor) -> Tensor:
    """z^2: with the target taken away as a margin, a regression (IPO, SPPO).

    >>> squared(torch.tensor([-3.0])).tolist()
    [9.0]
    """
    return z * z


def saturating(z: Tensor) -> Tensor:
    """1 - sigmoid(z): the prospect-theoretic value of KTO (arXiv 2402.01306), flat at both ends.

    >>> saturating(torch.tensor([0.0])).tolist()
    [0.5]
    """
    return torch.sigmoid(-z)


@dataclass(frozen=True)
class Smoothed:
    """(1 - eps) link(z) + eps link(-z): labels are wrong with probability eps (conservative DPO).

    >>> round(float(Smoothed(logistic, 0.1)(torch.tensor(2.0))), 6)  # 0.126928 + 0.1 * 2
    0.326928
    """

    link: Link
    eps: float

    def __call__(self, z: Tensor) -> Tensor:
        return (1 - self.eps) * self.link(z) + self.eps * self.link(-z)


def smooth(link: Link, eps: float) -> Link:
    """The link itself when there is nothing to smooth."""
    between(0, 0.5, label_smoothing=eps)
    return Smoothed(link, eps) if eps else link
