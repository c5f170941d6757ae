"""Distributions over the candidates of a prompt: the policy's own, and the one that rewards or labels define.

The scores s_i = beta log pi(y_i)/ref(y_i) of a contrast's K members give the policy's distribution over them,
log f = log_softmax(s); its target p is a constant. Which divergence joins the two is the whole difference
between DPO (forward, mode covering) and EXO (reverse, mode seeking). Shapes: N members in G contrasts, any K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure
from prefine.objectives.scores import Loss, Scores
from prefine.objectives.sets import log_sum_exp
from prefine.registry import between, one_of, positive

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(log f, log p), (N,) each -> (N,) terms to sum over a contrast."""


def reverse(log_f: Tensor, log_p: Tensor) -> Tensor:
    """f (log f - log p): KL( f || p ), with gradient through both f and log f."""
    return log_f.exp() * (log_f - log_p)


def forward(log_f: Tensor, log_p: Tensor) -> Tensor:
    """-p log f: KL( p || f ) up to a constant, the cross-entropy."""
    return -log_p.exp() * log_f


DIVERGENCES: Mapping[str, Divergence] = {"reverse": reverse, "forward": forward}


@dataclass(frozen=True)
class Distributions:
    """L = sum over the members of a contrast of divergence( log f, log p ), one value a contrast; p detached.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], score=torch.tensor([[1.0, -1.0]]))  # log-ratios 1, -1
    >>> Distributions(ByReward("score"))(s).per_contrast.tolist()  # the same distribution twice
    [0.0]
    """

    target: Callable[[Scores], Tensor]
    measure: Measure = LOG_RATIO
    beta: float = 1.0
    divergence: Divergence = reverse

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        log_f_N = within_contrasts(scores, self.beta * self.measure(scores))
        return Loss.of(scores.over_group(self.divergence(log_f_N, self.target(scores).detach())))


def within_contrasts(scores: Scores, x_N: Tensor) -> Tensor:
    """(N,) log-softmax of a row value over the members of each contrast.

    >>> s = Scores.of_pairs([0.0], [0.0])
    >>> [round(float(v), 4) for v in within_contrasts(s, torch.tensor([3.0, 3.0]))]  # log 1/2 each
    [-0.6931, -0.6931]
    """
    return x_N - log_sum_exp(scores, x_N, torch.ones_like(x_N, dtype=torch.bool))[scores.group_N]


@dataclass(frozen=True)
class ByReward:
    """log p_i = log_softmax( r_i / beta_r ) from a value of the members."""

    name: str
    beta_r: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        r_N = scores.value(self.name)
        if len(r_N) != len(scores.role_N):
            raise ValueError(f"the value {self.name!r} is needed for every response, and there is one a contrast")
        return within_contrasts(scores, r_N / self.beta_r)


@dataclass(frozen=True)
class ByLabel:
    """p = (1 - eps, eps) on (chosen, rejected)."""

    eps: float

    def __call__(self, scores: Scores) -> Tensor:
        scores.sides(scores.role_N)  # pairs, or a clear error
        log_p = torch.tensor([1 - self.eps, self.eps], dtype=scores.logp_NT.dtype, device=scores.logp_NT.device).log()
        return torch.where(scores.role_N > 0, log_p[0], log_p[1])


def exo(beta: float = 0.1, eps: float = 1e-3, reference: str = "reference") -> Distributions:
    """Efficient exact optimisation from pairs (EXO-pref, arXiv 2402.00856): the reverse KL, K = 2.

    L = sigma(z) [log sigma(z) - log(1 - eps)] + sigma(-z) [log sigma(-z) - log eps],  z = beta h, h the log-ratio
    gap of DPO. Least at z = log((1 - eps)/eps), where DPO has no end. (The released code leaves the target
    (0, -10) unnormalised, eps = 4.5e-5; that moves L by a constant of 4.5e-5.)

    >>> s = Scores.of_pairs([-1.0], [-1.0], [-1.0], [-1.0])  # z = 0
    >>> round(float(exo(eps=0.1)(s).mean(s)), 6)  # -log 2 - (log 0.9 + log 0.1)/2
    0.510826
    """
    positive(beta=beta, eps=eps)
    between(0, 0.5, eps=eps)
    return Distributions(ByLabel(eps), LogRatio(reference=reference), beta)


def exo_rewards(
    beta: float = 0.1,
    beta_r: float = 0.1,
    divergence: str = "reverse",
    score: str = "score",
    reference: str = "reference",
) -> Distributions:
    """Efficient exact optimisation from rewards of K candidates (EXO-rw, arXiv 2402.00856).

    L = sum_i f_i (log f_i - log p_i),  log f = log_softmax( beta log pi(y_i)/ref(y_i) ),
    log p = log_softmax( r_i / beta_r ), r the members' value ``score``; token sums. "forward" is the paper's
    baseline DPO-rw, -sum_i p_i log f_i. The optimum of both has beta log pi/ref = r/beta_r + const.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], score=torch.tensor([[0.1, -0.1]]))
    >>> round(float(exo_rewards(beta=1.0, beta_r=0.1)(s).mean(s)), 6)
    0.0
    """
    positive(beta=beta, beta_r=beta_r)
    kind = one_of("divergence", divergence, DIVERGENCES)
    return Distributions(ByReward(score, beta_r), LogRatio(reference=reference), beta, kind)
