"""Differences of differences: signed sums of what responses are worth, on several levels at once.

One kernel, link( beta sum_i role_i m_i ), compares responses to a prompt (two members), one response under two
prompts (two members), and two pairs (four: the gap under one prompt against the gap under another).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Weighted, weighted
from prefine.objectives.links import Link, logistic
from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure, Reward
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, positive


@dataclass(frozen=True)
class SignedSum:
    """L = link( beta sum_i role_i m(y_i) ), one value a contrast, as many chosen as rejected in each.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> round(float(SignedSum()(s).mean(s)), 6)  # a pair: DPO, log(1 + exp(-2))
    0.126928
    """

    measure: Measure = LOG_RATIO
    link: Link = logistic
    beta: float = 1.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        sign_N = scores.role_N.sign().to(scores.logp_NT.dtype)
        if bool((scores.over_group(sign_N) != 0).any()) or bool((scores.over_group(sign_N.abs()) == 0).any()):
            raise ValueError("this objective needs as many chosen as rejected responses in every contrast")
        return Loss.of(self.link(self.beta * scores.over_group(sign_N * self.measure(scores))))


@dataclass(frozen=True)
class LevelWeights:
    """factors[level] * share for the value "level" of a contrast (0 where there is none), share the value "weight"."""

    factors: tuple[float, ...]

    def __call__(self, scores: Scores) -> Tensor:
        level_G = scores.value("level", 0.0).long()
        factors = torch.tensor(self.factors, dtype=scores.logp_NT.dtype, device=level_G.device)
        return factors[level_G.clamp(0, len(self.factors) - 1)] * scores.value("weight", 1.0)


def mapl(beta: float = 0.1, intra: float = 1.0, inter: float = 1.0, reference: str = "reference") -> Weighted:
    """Multi-level aware preference learning (arXiv 2505.12845), for a policy: r = beta log pi/ref, token sums.

    L = L_pairs + intra L_intra + inter L_inter, each -log sigma of a difference of rewards: of two responses; of
    one response under two prompts, r(x_w, y) - r(x_l, y); of two gaps, [r(x1, w) - r(x1, l)] - [r(x2, w) - r(x2, l)].
    Which one a contrast is says its value "level" (0, 1, 2), and the value "weight" evens out how many there are
    (``curating.multi_level``). Between two prompts the partition terms do not cancel; the method drops them.

    >>> s = Scores.of_pairs([-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], level=[0.0, 1.0])
    >>> round(float(mapl(intra=3.0)(s).mean(s)), 6)  # (1 + 3)/2 log 2
    1.386294
    """
    positive(beta=beta)
    at_least(0, intra=intra, inter=inter)
    return weighted(SignedSum(LogRatio(reference=reference), beta=beta), LevelWeights((1.0, intra, inter)))


def mapl_reward(intra: float = 1.0, inter: float = 1.0) -> Weighted:
    """The same for a reward model (arXiv 2505.12845): r is its output.

    >>> s = Scores.of_pairs([2.0], [0.0])
    >>> round(float(mapl_reward()(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    at_least(0, intra=intra, inter=inter)
    return weighted(SignedSum(Reward()), LevelWeights((1.0, intra, inter)))
