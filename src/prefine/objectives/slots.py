"""A pair loss as a choice in every slot: the component scheme of a survey (Liu et al., arXiv 2503.11701), as code.

    L = noise( link( beta (m(w) - m(l)) - margin ) ) + likelihood term,   m(y) = f'( pi(y)/ref(y) )

Data strategy: the rate of wrong labels; learning framework: the link; constraint mechanism: reference, divergence,
beta; model property: what is done about length, and about the likelihood of the chosen. All defaults are DPO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.links import Link, hinge, logistic, squared
from prefine.objectives.measures import LogProbability, LogRatio, Measure
from prefine.objectives.noise import robust
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Objective, Scores
from prefine.objectives.wrap import penalised, plus_likelihood
from prefine.registry import one_of, positive


def reverse_kl(x: Tensor) -> Tensor:
    """f(u) = u log u: f'(u) = log u, up to a constant, which a pair does not see."""
    return x


def forward_kl(x: Tensor) -> Tensor:
    """f(u) = -log u: f'(u) = -1/u."""
    return -torch.exp(-x)


def jensen_shannon(x: Tensor) -> Tensor:
    """f(u) = u log u - (u + 1) log((u + 1)/2): f'(u) = log( 2u/(1 + u) )."""
    return torch.nn.functional.logsigmoid(x)  # the constant log 2 left out


DIVERGENCES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "reverse-kl": reverse_kl,
    "forward-kl": forward_kl,
    "jensen-shannon": jensen_shannon,
}


@dataclass(frozen=True)
class Divergent:
    """f'(pi/ref) of whole responses, as a function of x = log(pi/ref): f-DPO (Wang et al., arXiv 2309.16240).

    >>> s = Scores.of_pairs([-1.0], [-2.0], [-1.0], [-2.0])
    >>> Divergent(forward_kl)(s).tolist()  # pi = ref
    [-1.0, -1.0]
    """

    of: Callable[[Tensor], Tensor]
    ratio: Measure = LogRatio()  # noqa: RUF009 (frozen)

    @property
    def references(self) -> tuple[str, ...]:
        return self.ratio.references

    def __call__(self, scores: Scores) -> Tensor:
        return self.of(self.ratio(scores))


LINKS: Mapping[str, Link] = {"logistic": logistic, "squared": squared, "hinge": hinge}

MEASURES: Mapping[tuple[str, bool], Measure] = {
    ("fixed", False): LogRatio(),
    ("fixed", True): LogRatio(mean=True),
    ("none", False): LogProbability(mean=False),
    ("none", True): LogProbability(mean=True),
}
"""(reference, a mean over tokens?) -> what a response is worth."""


def slots(
    beta: float = 0.1,
    loss: str = "logistic",
    reference: str = "fixed",
    divergence: str = "reverse-kl",
    length: str = "free",
    margin: float = 0.0,
    noise: float = 0.0,
    likelihood: float = 0.0,
    alpha: float = 0.02,
) -> Objective:
    """A pair loss with one choice in every slot (the survey of Liu et al., arXiv 2503.11701); the defaults are DPO.

    loss: logistic, squared (a regression of the gap on 1/(2 beta): IPO) or hinge. reference: fixed, or none (no
    second model). divergence: reverse-kl, forward-kl or jensen-shannon (f-DPO). length: free (sums over tokens),
    normalised (means) or penalised (``alpha`` a token inside the link). margin: a target margin. noise: the share of
    wrong labels (rDPO). likelihood: weight of the chosen's negative log-likelihood a token.

    >>> from prefine.objectives import dpo, simpo
    >>> slots() == dpo() and slots(beta=2.0, reference="none", length="normalised", margin=1.0) == simpo()
    True
    """
    positive(beta=beta)
    one_of("length", length, dict.fromkeys(("free", "normalised", "penalised")))
    one_of("reference", reference, dict.fromkeys(("fixed", "none")))
    of = one_of("divergence", divergence, DIVERGENCES)
    measure = MEASURES[reference, length == "normalised"]
    if of is not reverse_kl:
        if reference == "none":
            raise InputError(
                f"divergence={divergence} is one from the reference, and there is none",
                remedy="leave out divergence, or reference",
            )
        measure = Divergent(of, measure)
    link = one_of("loss", loss, LINKS)
    regression = link is squared  # the gap itself against a target that beta sets
    target = 1 / (2 * beta) if regression else 0.0
    made: Objective = Pairs(measure, link, 1.0 if regression else beta, target + margin)
    if length == "penalised":
        made = penalised(made, alpha)
    made = robust(made, noise)
    return plus_likelihood(made, likelihood) if likelihood else made
