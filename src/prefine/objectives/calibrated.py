"""Calibrated: a pair loss with the expected log-ratio on a calibration distribution, raised or lowered.

A Bradley-Terry reward is only defined up to a shift c(x). Fixing the shift by E_cal[ r(x, y) ] = 0 turns the
KL-regularised value of the reward into a likelihood: with pi_r ~ ref exp(r/beta),

    J*(r) = E_x[ beta log sum_y ref(y|x) exp(r(x,y)/beta) ] = -beta E_cal[ log pi_r(y|x) - log ref(y|x) ]

so optimism (a reward with a high value) lowers the calibration responses and pessimism raises them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, add, scale
from prefine.objectives.measures import LOG_RATIO, LogProbability, LogRatio, Measure
from prefine.objectives.pairwise import dpo, ipo
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, one_of

Among = Callable[[Scores], Tensor]
"""(N,) how much every member counts in its contrast's expectation."""


@dataclass(frozen=True)
class Side:
    """The mean over the members of a role: +1 chosen, -1 rejected, 0 neither.

    >>> Side(1)(Scores.of_pairs([-1.0], [-2.0])).tolist()
    [1.0, 0.0]
    """

    role: int

    def __call__(self, scores: Scores) -> Tensor:
        on_side_N = (scores.role_N == self.role).to(scores.logp_NT.dtype)
        count_G = scores.over_group(on_side_N)
        if bool((count_G == 0).any()):
            raise ValueError(f"every contrast needs a calibration response (one with role {self.role}); some have none")
        return on_side_N / count_G[scores.group_N]


@dataclass(frozen=True)
class Marked:
    """The members' own value of that name: a pair may have one side that is a calibration response."""

    name: str = "calibration"

    def __call__(self, scores: Scores) -> Tensor:
        return scores.value(self.name)


CALIBRATIONS: Mapping[str, Among] = {"chosen": Side(1), "rejected": Side(-1), "other": Side(0), "marked": Marked()}
"""Which members are the calibration responses."""


@dataclass(frozen=True)
class Expected:
    """E_cal[ m(y) ], one value a contrast, to be added with a sign.

    It has no lower bound on a free softmax. With ``floor`` a response whose log-ratio is below it is let go:
    it counts as if it were at the floor, m + max(0, floor - log-ratio), and has no gradient.

    >>> s = Scores.of_pairs([-3.0], [-1.0], [-2.0], [-2.0])  # log-ratios -1 and +1
    >>> Expected(Side(1))(s).per_contrast.tolist(), Expected(Side(1), floor=-0.5)(s).per_contrast.tolist()
    ([-1.0], [-0.5])
    """

    among: Among
    measure: Measure = LOG_RATIO
    floor: float | None = None
    reference: str = "reference"
    """What the floor is measured against."""

    @property
    def references(self) -> tuple[str, ...]:
        kept = () if self.floor is None else (self.reference,)
        return tuple(dict.fromkeys((*self.measure.references, *kept)))

    def __call__(self, scores: Scores) -> Loss:
        m_N = self.measure(scores)
        if self.floor is not None:
            m_N = m_N + torch.relu(self.floor - scores.ratio(self.reference))
        return Loss.of(scores.over_group(self.among(scores) * m_N))


SIGNS: Mapping[str, float] = {"online": 1.0, "offline": -1.0}
"""Of the calibration term in the minimised loss: optimism lowers its responses, pessimism raises them."""


def vpo(
    beta: float = 0.1,
    alpha: float = 0.01,
    mode: str = "offline",
    calibration: str | None = None,
    floor: float | None = None,
    reference: str = "reference",
) -> Sum:
    """Value-incentivised preference optimisation (Cen et al., arXiv 2405.19320): DPO and a signed value.

    L = -log sigma(beta h) + sign alpha beta E_cal[ log pi(y) - log ref(y) ], token sums; sign +1 ``online``
    (optimism), -1 ``offline`` (pessimism). ``calibration``: the "chosen" responses (offline default), the
    "rejected", the members with role 0 ("other", online default), or members with the value "calibration"
    ("marked"). Offline on the chosen it has the gradient of ``regularised(beta, eta=alpha)``; alpha = 0 is DPO.

    >>> s = Scores.of_pairs([-4.0], [-4.0], [-5.0], [-5.0])  # log-ratios +1 and +1
    >>> round(float(vpo(beta=0.5, alpha=0.2)(s).mean(s)), 6)  # log 2 - 0.2 * 0.5 * 1
    0.593147
    """
    at_least(0, alpha=alpha)
    sign = one_of("mode", mode, SIGNS)
    among = one_of("calibration", calibration or ("chosen" if mode == "offline" else "other"), CALIBRATIONS)
    value = Expected(among, LogRatio(reference=reference), floor, reference)
    return add(dpo(beta, reference=reference), scale(sign * alpha * beta, value))


PAIR_LOSSES: Mapping[str, Callable[[float], Objective]] = {"sigmoid": dpo, "ipo": lambda beta: ipo(beta, mean=False)}


def xpo(beta: float = 0.1, alpha: float = 1e-5, loss: str = "sigmoid", floor: float | None = None) -> Sum:
    """Exploratory preference optimisation (Xie et al., arXiv 2405.21046, alg. 1): DPO that leaves the reference.

    L = -log sigma(beta h) + alpha log pi(y~), token sums, y~ the pair's response that the reference drew: its
    member has calibration = 1, the other 0. ``loss="ipo"`` takes (h - 1/(2 beta))^2 for the pair. alpha = 0
    is online DPO on (policy, reference) pairs; the gradient is that of the online ``vpo(alpha=alpha/beta)``.

    >>> s = Scores.of_pairs([-4.0], [-6.0], [-4.0], [-6.0], calibration=torch.tensor([[0.0, 1.0]]))
    >>> round(float(xpo(alpha=0.01)(s).mean(s)), 6)  # log 2 - 0.01 * 6
    0.633147
    """
    at_least(0, alpha=alpha)
    return add(one_of("loss", loss, PAIR_LOSSES)(beta), scale(alpha, explored(floor)))


def explored(floor: float | None = None) -> Expected:
    """log pi(y~), the token sum of the members with calibration = 1: what exploring lowers."""
    return Expected(Marked(), LogProbability(mean=False), floor)
