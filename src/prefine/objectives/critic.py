"""An adversarial critic: fit the preferences, and otherwise rate the policy's own samples low, on average.

A contrast is a pair with one or more members of role 0, samples y' of the policy that the round started from.
With m a measure of responses (a reward f, or the log-ratio q = log pi/pi_t that stands for it):

    lam * -log sigma( beta (m(w) - m(l)) ) + link( beta [ m(y') - (m(w) + m(l))/2 ] )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prefine.objectives.calibrated import Side
from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.links import Link, logistic
from prefine.objectives.measures import LOG_RATIO, Measure
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, one_of, positive


def linear(z: Tensor) -> Tensor:
    """z itself."""
    return z


def softplus(z: Tensor) -> Tensor:
    """-log sigma(-z): z where it is large, 0 where it is very negative, so that nobody is pushed down for ever."""
    return logistic(-z)


@dataclass(frozen=True)
class Excess:
    """link( beta [ m(y') - (m(w) + m(l))/2 ] ), the mean over the samples y'; both sides have gradient.

    A shift of m by a constant of the prompt changes nothing, so a log-ratio may stand for a reward.
    """

    measure: Measure = LOG_RATIO
    beta: float = 1.0
    link: Link = linear

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        m_N = self.measure(scores)
        chosen_G, rejected_G = scores.sides(m_N)
        data_N = ((chosen_G + rejected_G) / 2)[scores.group_N]
        return Loss.of(scores.over_group(Side(0)(scores) * self.link(self.beta * (m_N - data_N))))


FORMS: Mapping[str, Link] = {"smooth": softplus, "linear": linear}


def spac(beta: float = 0.1, lam: float = 1.0, form: str = "smooth", measure: Measure = LOG_RATIO) -> Sum:
    """Self-play with an adversarial critic (Ji et al., arXiv 2406.04274, alg. 2): one round's loss.

    L = lam * -log sigma( beta q(w) - beta q(l) ) + C,  q = log pi - log pi_t, token sums, y' ~ pi_t (role 0),
    C = beta q(y') - beta/2 (q(w) + q(l)) with ``form="linear"``, -log sigma(-C) with "smooth". lam -> infinity
    is DPO on the pairs. ``measure=Reward()`` with beta = 1 and "linear" is the critic f_t of the theory (SPAC-T),
    whose mirror step pi_t exp(f_t/beta) is what minimising L over pi does at once.

    >>> from prefine.slate import OTHER
    >>> import torch
    >>> s = Scores(torch.tensor([[-1.0], [-3.0], [-2.0]]), torch.ones(3, 1), torch.tensor([1, -1, OTHER]),
    ...            torch.zeros(3, dtype=torch.long), {"reference": torch.full((3, 1), -2.0)})  # q = 1, -1, 0
    >>> round(float(spac(beta=1.0, lam=1.0, form="linear")(s).mean(s)), 6)  # log(1 + exp(-2)) + 0 - 0
    0.126928
    """
    positive(beta=beta)
    at_least(0, lam=lam)
    critic = Excess(measure, beta, one_of("form", form, FORMS))
    return add(scale(lam, Pairs(measure, logistic, beta)), critic)
