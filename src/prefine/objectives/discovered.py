"""Losses that a language model found, searching over pair losses (DiscoPOP, Lu et al., arXiv 2406.08414).

With rho = h of DPO (the log-ratio gap, token sums), z = beta rho and S = z/0.05, which is rho at the search's own
beta. The constants are the search's, nothing is detached. Where the paper's formulas and its released code differ
(AQL's gate, the spread in AQFL, z/tau or z in PFL), this is the code. Three losses weigh two links by statistics of
the batch, so their step is one batch (``whole_batch``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prefine.objectives.combine import Combination, add, weighted
from prefine.objectives.links import Link, hinge, logistic
from prefine.objectives.measures import LogProbability, LogRatio
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import one_of, positive

TAU = 0.05


def exponential(z: Tensor) -> Tensor:
    """exp(-z).

    >>> exponential(torch.tensor([0.0])).tolist()
    [1.0]
    """
    return torch.exp(-z)


@dataclass(frozen=True)
class LogRatioModulated:
    """(1 - g) (-log sigma(z)) + g exp(-z),  g = sigma(z/tau): LRML, the best one found, alias DiscoPOP.

    Not convex: between a local minimum at z = -0.1186 and a local maximum at 0.0720 (tau = 0.05) pairs that are
    ranked wrongly by a little stay so.

    >>> round(float(LogRatioModulated()(torch.tensor(0.0))), 6)  # 0.5 log 2 + 0.5
    0.846574
    """

    tau: float = TAU

    def __call__(self, z: Tensor) -> Tensor:
        keep = torch.sigmoid(-z / self.tau)
        # g exp(-z) as one exponential: far below 0 it is 0, where g = 0 times exp(-z) = inf would be no number.
        return keep * logistic(z) + torch.exp(F.logsigmoid(z / self.tau) - z)


def cell(z: Tensor) -> Tensor:
    """0.5 exp(-z) + 0.5 (-log sigma(z)): combined exponential and logistic loss.

    >>> round(float(cell(torch.tensor(0.0))), 6)
    0.846574
    """
    return 0.5 * exponential(z) + 0.5 * logistic(z)


def dbaql(z: Tensor) -> Tensor:
    """c (-log sigma(z/0.9)) + (1 - c) exp(-0.9 z),  c = sigma( Var(S) ) over the batch, unbiased.

    Dynamic blending, adaptive quantile loss.
    """
    variance = spread(z / TAU).square()
    # (1 - c) exp(-0.9 z) in logarithms: a batch that is far apart would be 0 times infinity.
    return torch.sigmoid(variance) * logistic(z / 0.9) + torch.exp(F.logsigmoid(-variance) - 0.9 * z)


def aql(z: Tensor) -> Tensor:
    """w (-log sigma(z)) + (1 - w) max(0, 1 - z),  w = sigma( -(S - q) ),  q = 0.5 + 0.01 (sigma(mean S) - 0.5).

    Adaptive quantile loss; q is a moving quantile after one step.
    """
    S = z / TAU
    q = 0.5 + 0.01 * (torch.sigmoid(S.mean()) - 0.5)
    w = torch.sigmoid(q - S)
    return w * logistic(z) + (1 - w) * hinge(z)


def aqfl(z: Tensor) -> Tensor:
    """b (-log sigma(z)) + (1 - b) max(0, 1 - z),  b = sigma( 0.1 |S - q| ).

    q = q_0 + 0.05 (sigma(mean S) - q_0),  q_0 = std(S) mean sigma(-S). Adaptive quantile feedback loss.
    """
    S = z / TAU
    start = spread(S) * torch.sigmoid(-S).mean()
    q = start + 0.05 * (torch.sigmoid(S.mean()) - start)
    b = torch.sigmoid(0.1 * (S - q).abs())
    return b * logistic(z) + (1 - b) * hinge(z)


def padll(z: Tensor) -> Tensor:
    """0.9 (1 - 0.5 [z < 0]) (-log sigma(z)): half the weight where the policy ranks the pair wrongly.

    Performance adaptive decay logistic loss.
    """
    return 0.9 * (1 - 0.5 * (z < 0).to(z)) * logistic(z)


def spread(x: Tensor) -> Tensor:
    """The unbiased standard deviation; 0 for a single number, where the formula says 0/0."""
    return x.std() if len(x) > 1 else torch.zeros_like(x).sum()


@dataclass(frozen=True)
class Together(Combination):
    """The objective with the whole step as one batch: what it says of a pair depends on the others."""

    objective: Objective
    whole_batch: bool = True

    def __call__(self, scores: Scores) -> Loss:
        return self.objective(scores)


@dataclass(frozen=True)
class Ranked:
    """``right`` where log pi(y_w) > log pi(y_l), the policy alone and token sums, ``wrong`` elsewhere."""

    right: float
    wrong: float

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, rejected_G = scores.sides(LogProbability(mean=False)(scores).detach())
        rightly = (chosen_G > rejected_G).to(chosen_G)
        return self.right * rightly + self.wrong * (1 - rightly)


def _pairs(link: Link) -> Callable[[float], Objective]:
    return lambda beta: Pairs(LogRatio(), link, beta)


def _coupled(link: Link) -> Callable[[float], Objective]:
    return lambda beta: Together(Pairs(LogRatio(), link, beta))


def policy_focused(beta: float) -> Objective:
    """PFL: -log sigma(z)/2 where the policy alone ranks the pair rightly, else 2 max(0, 1 - z)."""
    held = weighted(Pairs(LogRatio(), logistic, beta), Ranked(0.5, 0.0))
    return add(held, weighted(Pairs(LogRatio(), hinge, beta), Ranked(0.0, 2.0)))


LOSSES: Mapping[str, Callable[[float], Objective]] = {
    "lrml": _pairs(LogRatioModulated()),
    "cell": _pairs(cell),
    "dbaql": _coupled(dbaql),
    "aql": _coupled(aql),
    "aqfl": _coupled(aqfl),
    "padll": _pairs(padll),
    "pfl": policy_focused,
}
"""Name -> beta -> objective."""


def discovered(loss: str = "lrml", beta: float = 0.05) -> Objective:
    """One of the losses found by DiscoPOP's search (arXiv 2406.08414): lrml, cell, dbaql, aql, aqfl, padll, pfl.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # z = 2 beta
    >>> round(float(discovered("padll", beta=1.0)(s).mean(s)), 6)  # 0.9 log(1 + exp(-2))
    0.114235
    """
    positive(beta=beta)
    return one_of("loss", loss, LOSSES)(beta)


def discopop(beta: float = 0.05, tau: float = TAU, reference: str = "reference") -> Pairs:
    """The log-ratio modulated loss (DiscoPOP, arXiv 2406.08414): (1 - g) (-log sigma(z)) + g exp(-z).

    z = beta h with h as in DPO, g = sigma(z/tau), not detached.

    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0])
    >>> round(float(discopop()(s).mean(s)), 6)  # 0.5 log 2 + 0.5
    0.846574
    """
    positive(beta=beta, tau=tau)
    return Pairs(LogRatio(reference=reference), LogRatioModulated(tau), beta)
