"""Reward gaps: the gap of the policy's own rewards made to match the gap of explicit ones, under some distance.

For every two members of a contrast: a the implicit gap, with gradient, b the explicit one, without. Pairs, and
groups of K responses with a value each. Shapes: N members in G contrasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.objectives.measures import LOG_RATIO, LogProbability, LogRatio, Measure
from prefine.objectives.scores import Loss, Scores
from prefine.registry import one_of, positive

Distance = Callable[[Tensor, Tensor], Tensor]
"""(implicit gap a, explicit gap b) -> D(a || b), elementwise."""


def squared_gap(a: Tensor, b: Tensor) -> Tensor:
    """(a - b)^2."""
    return (a - b).square()


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL( Ber(sigma(p)) || Ber(sigma(q)) ) of two logits.

    >>> bernoulli_kl(torch.tensor(1.0), torch.tensor(1.0)).item()
    0.0
    """
    up = p.sigmoid() * (logsigmoid(p) - logsigmoid(q))
    return up + (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))


def backward_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL( Ber(sigma(b)) || Ber(sigma(a)) ): the target first, as the released code names it."""
    return bernoulli_kl(b, a)


def forward_kl(a: Tensor, b: Tensor) -> Tensor:
    """KL( Ber(sigma(a)) || Ber(sigma(b)) )."""
    return bernoulli_kl(a, b)


DISTANCES: Mapping[str, Distance] = {
    "backward-kl": backward_kl, "forward-kl": forward_kl, "squared": squared_gap,
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """eta times a value of the members."""

    name: str
    eta: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        return self.eta * scores.value(self.name)


@dataclass(frozen=True)
class Sides:
    """eta for a chosen response and 0 for any other: the explicit reward where there is only a label."""

    eta: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        return self.eta * (scores.role_N > 0).to(scores.logp_NT.dtype)


@dataclass(frozen=True)
class RewardGaps:
    """L = mean over every two members i, j of a contrast of D( beta (m_i - m_j) || reward_i - reward_j ).

    Every distance here is the same in both orders of a pair. ``reward`` is detached.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], score=torch.tensor([[4.0, 1.0]]))  # m = 1, -1
    >>> RewardGaps(Given("score"), squared_gap, 0.5)(s).per_contrast.tolist()  # (0.5 * 2 - 3)^2
    [4.0]
    """

    reward: Callable[[Scores], Tensor]
    distance: Distance = backward_kl
    beta: float = 0.2
    measure: Measure = LOG_RATIO

    @property
    def references(self) -> tuple[str, ...]:
        own = self.measure.references
        return tuple(dict.fromkeys((*own, *getattr(self.reward, "references", ()))))

    def __call__(self, scores: Scores) -> Loss:
        implicit_N, explicit_N = self.beta * self.measure(scores), self.reward(scores).detach()
        i, j = couples(scores)
        distance_C = self.distance(implicit_N[i] - implicit_N[j], explicit_N[i] - explicit_N[j])
        group_C = scores.group_N[i]
        zeros_G = distance_C.new_zeros(scores.groups)
        count_G = zeros_G.index_add(0, group_C, torch.ones_like(distance_C))
        return Loss.of(zeros_G.index_add(0, group_C, distance_C) / count_G)


def couples(scores: Scores) -> Tensor:
    """(2, C) rows of every two members of a contrast, each couple once.

    >>> couples(Scores.of_pairs([0.0, 0.0], [0.0, 0.0])).T.tolist()
    [[0, 1], [2, 3]]
    """
    sides_KG = torch.stack([scores.over_group((scores.role_N * side > 0).float()) for side in (1, -1)])
    if not bool((sides_KG > 0).all()):  # a response and one to another prompt are no couple
        raise ValueError("this objective needs pairs or lists: in every contrast a chosen and a rejected response")
    together_NN = scores.group_N[:, None] == scores.group_N[None, :]
    return together_NN.triu(1).nonzero().T


def reward_aware(
    distance: str = "backward-kl",
    beta: float = 0.2,
    eta: float = 1.0,
    reward: str = "score",
    normalised: bool = False,
    reference: str = "reference",
) -> RewardGaps:
    """Reward-aware preference optimisation (arXiv 2502.00203; first in arXiv 2406.11704).

    L = D( a || b ),  a = beta (m_i - m_j),  b = eta (r_i - r_j), the mean over every two responses of a contrast;
    m = log-ratio, token sums, or with ``normalised`` token means of log pi without a reference (as SimPO).
    distance: "squared", "backward-kl" (target first) or "forward-kl". reward: the members' value r, or "label":
    1 for the chosen and 0 for the others, where there are no scores; its own maker takes any function of the
    scores, the log-ratio of another policy for one (``RewardGaps``).

    b -> infinity with backward-kl is DPO; sigma(b) = 1 - eps conservative DPO; squared with b = 1/2 is beta^2 IPO
    with tau = beta.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], score=torch.tensor([[3.0, 1.0]]))
    >>> reward_aware("squared", beta=1.0)(s).per_contrast.tolist()  # h = 2, b = 2
    [0.0]
    """
    positive(beta=beta, eta=eta)
    measure: Measure = LogProbability(mean=True) if normalised else LogRatio(reference=reference)
    explicit = Sides(eta) if reward == "label" else Given(reward, eta)
    return RewardGaps(explicit, one_of("distance", distance, DISTANCES), beta, measure)
