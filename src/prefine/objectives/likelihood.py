"""Likelihood: -log pi of some responses, as a term of its own, and the composites of a pair loss with it.

A signed likelihood term on a chosen distribution is what regularised, exploratory and one-stage methods
share: ``scale(c, likelihood(...))`` raises (c > 0) or lowers (c < 0) the responses of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, Weighted, add, scale, weighted
from prefine.objectives.links import logistic
from prefine.objectives.measures import LogOdds
from prefine.objectives.pairwise import Pairs, dpo
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, one_of


@dataclass(frozen=True)
class Likelihood:
    """-log pi(y|x), summed over the members of a side. What it is divided by: see ``likelihood``."""

    measure: Callable[[Scores], Tensor]
    per: str = "contrast"
    role: int = 1
    reads_prompt: bool = False
    references: tuple[str, ...] = ()

    def __call__(self, scores: Scores) -> Loss:
        on_side = scores.role_N == self.role
        # Not a product: what is infinite on the other side is none of this side's.
        return Loss.of(-scores.over_group(torch.where(on_side, self.measure(scores), 0.0)), self.per)


def token_sum(scores: Scores) -> Tensor:
    """(N,) log-probability of the response."""
    return scores.sum()


def token_mean(scores: Scores) -> Tensor:
    """(N,) log-probability a token."""
    return scores.mean()


def with_prompt(scores: Scores) -> Tensor:
    """(N,) log-probability of prompt and response."""
    if scores.prompt_logp_N is None:
        raise ValueError("the prompt's log-probabilities were not computed: set reads_prompt on the objective")
    return scores.sum() + scores.prompt_logp_N


ROLES: Mapping[str, int] = {"chosen": 1, "rejected": -1, "other": 0}


def likelihood(mean: bool = False, side: str = "chosen") -> Likelihood:
    """The negative log-likelihood of a side's responses, a mean over contrasts of token sums or token means.

    >>> s = Scores.of_pairs([-6.0], [-1.0], chosen_length=[3])
    >>> likelihood()(s).per_contrast.tolist(), likelihood(mean=True)(s).per_contrast.tolist()
    ([6.0], [2.0])
    """
    return Likelihood(token_mean if mean else token_sum, role=one_of("side", side, ROLES))


def sft(prompt_in_nll: bool = False) -> Likelihood:
    """Supervised fine-tuning: the mean over all tokens of the chosen responses of a step.

    L = - sum log pi(y_w|x) / sum |y_w|; with ``prompt_in_nll`` prompts are learnt too, and count as tokens.

    >>> s = Scores.of_pairs([-3.0, -1.0], [0.0, 0.0], chosen_length=[3, 1])
    >>> float(sft()(s).mean(s))  # (3 + 1) / (3 + 1), where the mean of the two responses' means is 1 too
    1.0
    """
    if prompt_in_nll:
        return Likelihood(with_prompt, "chosen_text_token", reads_prompt=True)
    return Likelihood(token_sum, "chosen_token")


def orpo(lam: float = 0.1, prompt_in_nll: bool = True) -> Sum:
    """Odds-ratio preference optimisation (Hong et al., arXiv 2403.07691, eq. 6): one stage, no reference.

    L = L_SFT + lam * mean( -log sigma( log odds(y_w) - log odds(y_l) ) ), odds = P/(1 - P), log P the mean
    token log-probability. As in the released code the prompt counts in L_SFT; ``prompt_in_nll=False`` leaves
    it out. Nothing is detached.

    >>> s = Scores.of_pairs([-0.6931471805599453], [-1.3862943611198906])  # odds 1 and 1/3
    >>> round(float(orpo(lam=1.0, prompt_in_nll=False)(s).mean(s)), 6)  # log 2 + log(1 + 1/3)
    0.980829
    """
    at_least(0, lam=lam)
    return add(sft(prompt_in_nll), scale(lam, Pairs(LogOdds(), logistic)))


def regularised(beta: float = 0.1, eta: float = 0.005, average: bool = False, label_smoothing: float = 0.0) -> Sum:
    """DPO with its adversarial regulariser, the likelihood of the chosen (arXiv 2405.16436, eq. 4.6).

    Cumulative: L = -log sigma(beta h) - eta beta log pi(y_w), a token sum, with the factor beta.
    Average: L = -log sigma(beta h) - eta log pi(y_w)/|y_w|, without it (the reasoning variant, also IRPO's
    loss, arXiv 2404.19733). eta = 0 is DPO.

    >>> s = Scores.of_pairs([-4.0], [-4.0], [-4.0], [-4.0], chosen_length=[2])
    >>> round(float(regularised(beta=0.5, eta=0.1)(s).mean(s)), 6)  # log 2 + 0.1 * 0.5 * 4
    0.893147
    >>> round(float(regularised(beta=0.5, eta=0.1, average=True)(s).mean(s)), 6)  # log 2 + 0.1 * 2
    0.893147
    """
    at_least(0, eta=eta)
    factor = eta if average else eta * beta
    return add(dpo(beta, label_smoothing), scale(factor, likelihood(mean=average)))


def scpo(beta: float = 0.5, alpha: float = 1.0) -> Weighted:
    """Self-consistency preference optimisation (Prasad et al., arXiv 2411.04109, eq. 3).

    L = w [ -log sigma(beta h) - alpha log pi(y_w)/|y_w| ], w the value "weight": the vote margin of the
    pair. w = 1 is iterative reasoning PO, w = 0 no gradient.

    >>> s = Scores.of_pairs([-4.0], [-4.0], [-4.0], [-4.0], chosen_length=[2], weight=[0.5])
    >>> round(float(scpo(beta=0.5, alpha=1.0)(s).mean(s)), 6)  # (log 2 + 2) / 2
    1.346574
    """
    return weighted(regularised(beta, alpha, average=True), "weight")
