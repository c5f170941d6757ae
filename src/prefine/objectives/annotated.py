"""Pair losses that read what is known of the responses themselves: prior rewards, factuality, shares of votes.

MaPPO is a wrapper (the rejected side counts for as much as the prior says), F-DPO a margin, iREPO a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefine.objectives.combine import Combination, add, scale
from prefine.objectives.likelihood import likelihood
from prefine.objectives.links import logistic, squared
from prefine.objectives.margins import ValueGap
from prefine.objectives.measures import LogProbability, LogRatio
from prefine.objectives.pairwise import Pairs, dpo, ipo, simpo
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, between, one_of, positive

# -- MaPPO: the rejected response counts for as much as the prior says


@dataclass(frozen=True)
class PriorGap(Combination):
    """The objective on pairs whose rejected log-probabilities are multiplied by D, a constant in [0, 1].

    Policy and references alike, so every log-ratio or log-probability of y_l that the objective forms, sum or
    mean, is D times itself; the chosen side is untouched. D = 1 is the objective.
    """

    objective: Objective
    by: str = "score"
    bounded: bool = False

    def __call__(self, scores: Scores) -> Loss:
        D_G = self.gap(scores)
        c_N = torch.where(scores.role_N < 0, D_G[scores.group_N], torch.ones_like(D_G[scores.group_N]))[:, None]
        references = {name: logp_NT * c_N for name, logp_NT in scores.references.items()}
        return self.objective(replace(scores, logp_NT=scores.logp_NT * c_N, references=references))

    def gap(self, scores: Scores) -> Tensor:
        """(G,) D = r_w - r_l, or the value itself where it is one number a pair."""
        value = scores.value(self.by).detach()
        if len(value) == scores.groups:
            D_G = value
        else:
            r_w, r_l = scores.sides(value if self.bounded else torch.sigmoid(value))
            D_G = r_w - r_l
        return D_G.clamp(0, 1)  # a prior that contradicts the label says: a tie


def prior_gap(objective: Objective, by: str = "score", bounded: bool = False) -> PriorGap:
    """Any pair loss with the prior of MaPPO (arXiv 2507.21183): D = r_w - r_l in [0, 1] on the rejected log-ratio.

    r are the members' values ``by``, taken through a logistic unless ``bounded`` says that they are in [0, 1]
    already; a value of the pair is D itself. D is a constant; a near-tie (D near 0) hardly punishes the loser.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], gap=[0.0])  # A = 1, B = -1
    >>> round(float(prior_gap(dpo(1.0), "gap")(s).mean(s)), 6)  # log(1 + exp(-1)): B is left out
    0.313262
    """
    return PriorGap(objective, by, bounded)


HOSTS: Mapping[str, Callable[[float, float, float], Objective]] = {
    "dpo": lambda beta, gamma, lam: dpo(beta),
    "simpo": lambda beta, gamma, lam: simpo(beta, gamma),
    "ipo": lambda beta, gamma, lam: ipo(beta, mean=False),
    "cpo": lambda beta, gamma, lam: add(Pairs(LogProbability(mean=False), beta=beta), scale(lam, likelihood())),
}


def mappo(
    host: str = "dpo", beta: float = 0.1, gamma: float = 1.0, lam: float = 0.2, by: str = "score", bounded: bool = False
) -> PriorGap:
    """Maximum a posteriori preference optimisation (arXiv 2507.21183) on one of its four hosts.

    With A = log pi(y_w)/ref(y_w), B the same of y_l, token sums, and D as in ``prior_gap``:
    dpo    -log sigma( beta A - D beta B )
    simpo  -log sigma( beta/|y_w| log pi(y_w) - D beta/|y_l| log pi(y_l) - gamma )
    ipo    ( A - D B - 1/(2 beta) )^2
    cpo    -log sigma( beta log pi(y_w) - D beta log pi(y_l) ) - lam log pi(y_w)

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], score=torch.tensor([[1.0, 0.5]]))  # A = 1, B = -1
    >>> mappo("ipo", beta=0.5, bounded=True)(s).per_contrast.tolist()  # (1 + 0.5 - 1)^2
    [0.25]
    """
    positive(beta=beta)
    at_least(0, gamma=gamma, lam=lam)
    return PriorGap(one_of("host", host, HOSTS)(beta, gamma, lam), by, bounded)


# -- F-DPO: a margin for pairs that differ in factuality


@dataclass(frozen=True)
class Turned(Combination):
    """An objective on pairs of which those whose chosen response has the flag, and the rejected one not, are
    turned round."""

    objective: Objective
    flags: str

    def __call__(self, scores: Scores) -> Loss:
        chosen_G, rejected_G = scores.sides(scores.value(self.flags))
        turned_N = (chosen_G > rejected_G)[scores.group_N]
        return self.objective(replace(scores, role_N=torch.where(turned_N, -scores.role_N, scores.role_N)))


def factual(beta: float = 0.1, lam: float = 10.0, flags: str = "hallucinated", reference: str = "reference") -> Turned:
    """Factuality-aware DPO (arXiv 2601.03027): L = -log sigma( beta ( h - lam (h_l - h_w) ) ).

    h the log-ratio gap of DPO, token sums; h_w, h_l the members' value ``flags``: 1 for a response with any
    hallucination or error, 0 for a factual one. A pair with (h_w, h_l) = (1, 0) is turned round first (as the
    curator ``factual_order`` does to the data), so h_l - h_w is 0 or 1. lam is in units of the
    log-ratio; lam = 0 is DPO.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], hallucinated=torch.tensor([[0.0, 1.0]]))  # h = 2
    >>> round(float(factual(beta=1.0, lam=2.0)(s).mean(s)), 6)  # log 2
    0.693147
    """
    positive(beta=beta)
    at_least(0, lam=lam)
    return Turned(Pairs(LogRatio(reference=reference), logistic, beta, ValueGap(flags, -beta * lam)), flags)


# -- iREPO: the logit of the empirical preference as target


@dataclass(frozen=True)
class LogitOf:
    """log p/(1 - p) of a value of the pairs, a probability, clipped to [eps, 1 - eps].

    >>> s = Scores.of_pairs([0.0, 0.0], [0.0, 0.0], preference=[0.5, 0.75])
    >>> [round(float(q), 4) for q in LogitOf("preference", 0.01)(s)]  # 0 and log 3
    [0.0, 1.0986]
    """

    name: str
    eps: float

    def __call__(self, scores: Scores) -> Tensor:
        return torch.logit(scores.value(self.name).clamp(self.eps, 1 - self.eps))


def irepo(beta: float = 0.1, eps: float = 0.01, by: str = "preference", reference: str = "reference") -> Pairs:
    """Implicit reward pairwise difference (iREPO, arXiv 2405.15230): L = ( beta h - log p/(1 - p) )^2.

    h the log-ratio gap of DPO, token sums, against the round's start; p the value ``by``, the share of annotators
    (or their mean probability) for y_1 over y_2, clipped to [eps, 1 - eps]: eps = 1/(2 votes), or 0.01. A soft
    label gives a finite target, so the margin does not run away.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], preference=[0.5])  # h = 2, target 0
    >>> irepo(beta=1.0)(s).per_contrast.tolist()
    [4.0]
    """
    positive(beta=beta, eps=eps)
    between(0, 0.5, eps=eps)
    return Pairs(LogRatio(reference=reference), squared, beta, LogitOf(by, eps))
