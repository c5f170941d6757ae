"""One accepted response against several rejected ones, without a reference, offset by their rewards (AMPO)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefine.objectives.measures import LogProbability
from prefine.objectives.policy_gradient import reward_of
from prefine.objectives.scores import Scores
from prefine.objectives.sets import SetContrast, side_mean
from prefine.registry import at_least, one_of, positive


@dataclass(frozen=True)
class AroundMean:
    """alpha (r - mean r), or its absolute value; r a value of the members, its mean the value ``mean_NAME`` of the
    contrast (over responses that do not take part, too), else that of the members with a side.

    >>> s = Scores.of_pairs([0.0], [0.0], score=[4.0, 1.0], mean_score=[2.0])
    >>> AroundMean("score", 1.0)(s).tolist(), AroundMean("score", 1.0, absolute=True)(s).tolist()
    ([2.0, -1.0], [2.0, 1.0])
    """

    name: str
    alpha: float
    absolute: bool = False

    def __call__(self, scores: Scores) -> Tensor:
        r_N, known = reward_of(scores, self.name), f"mean_{self.name}"
        mean_G = scores.values[known] if known in scores.values else side_mean(scores, r_N, scores.role_N != 0)
        away_N = r_N - mean_G[scores.group_N]
        return self.alpha * (away_N.abs() if self.absolute else away_N)


DEVIATIONS = {"signed": False, "absolute": True}


def ampo(beta: float = 5.0, alpha: float = 1.0, deviation: str = "signed") -> SetContrast:
    """Active multi-preference optimisation's loss (arXiv 2502.18293): a set contrast on mean token log-probabilities.

    L = -log [ sum_{S+} e^{s_i} / sum_{S+ u S-} e^{s_i} ],  s_i = beta/|y_i| log pi(y_i) + alpha (r_i - mean r),
    no reference, r constant from the members' value "score". With deviation "signed" the worst response gets the least
    push (its part of the sum is small already), with "absolute", as in the parent method SWEPO, the most; alpha = 0
    leaves the question out. One against one with alpha = 0 is SimPO without its margin.

    >>> from prefine.objectives import simpo
    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> ampo(beta=2.0, alpha=0.0)(s).mean(s).isclose(simpo(beta=2.0, gamma=0.0)(s).mean(s)).item()
    True
    """
    positive(beta=beta)
    at_least(0, alpha=alpha)
    absolute = one_of("deviation", deviation, DEVIATIONS)
    return SetContrast(LogProbability(), beta, AroundMean("score", alpha, absolute) if alpha else None)
