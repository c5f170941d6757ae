"""Rankings: a whole list of responses to a prompt, best first, contrasted rank by rank.

At every rank the response is contrasted with all below it by one softmax (Plackett and Luce), each with its own
temperature. Shapes: N members in G lists of at most K; (G, K) tables are filled from the front.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Sum, add, scale, weighted
from prefine.objectives.likelihood import likelihood
from prefine.objectives.measures import LogProbability, Measure
from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least

PER_TOKEN = LogProbability(mean=True)


@dataclass(frozen=True)
class Table:
    """Members of lists as a table of rows: which row stands at which place, and whether there is one."""

    row_GK: Tensor
    there_GK: Tensor

    def of(self, x_N: Tensor) -> Tensor:
        """(G, K) a row value; at places without a member the list's first one."""
        return x_N[self.row_GK]


def table(scores: Scores, by: Tensor | None = None) -> Table:
    """The members of every contrast in order, or sorted by a number of theirs, large first (equals in order).

    >>> s = Scores.of_pairs([0.0, 0.0], [0.0, 0.0])
    >>> table(s, torch.tensor([1.0, 2.0, 2.0, 1.0])).row_GK.tolist()
    [[1, 0], [2, 3]]
    """
    group_N = scores.group_N
    order = torch.arange(len(group_N), device=group_N.device)
    if by is not None:
        order = torch.sort(by.detach(), descending=True, stable=True).indices
        order = order[torch.sort(group_N[order], stable=True).indices]
    size_G = torch.bincount(group_N, minlength=scores.groups)
    place_K = torch.arange(int(size_G.max()), device=group_N.device)
    there_GK = place_K[None] < size_G[:, None]
    first_G = size_G.cumsum(0) - size_G
    return Table(order[first_G[:, None] + place_K[None] * there_GK], there_GK)


@dataclass(frozen=True)
class RankedSoftmax:
    """L = sum over ranks k < n of log( floor + sum_{i >= k} exp(t_ki m_i) ) - t_kk m_k, one value a list.

    With a value ``by`` of the members lists are sorted by it and t_ki = r_k - r_i for i > k, t_kk = max_{i > k} t_ki,
    constants; without one the order is that of the contrast and every t is 1.

    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> round(float(RankedSoftmax()(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """

    measure: Measure = PER_TOKEN
    by: str | None = None
    floor: float = 0.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        reward_N = None if self.by is None else _of_members(scores, self.by).detach()
        lists = table(scores, reward_N)
        m_GK, there_GK = lists.of(self.measure(scores)), lists.there_GK
        K = m_GK.shape[1]
        place = torch.arange(K, device=m_GK.device)
        below_GKK = (place[None] > place[:, None])[None] & there_GK[:, None, :]
        own_KK = torch.eye(K, dtype=torch.bool, device=m_GK.device)
        if reward_N is None:
            t_GKK = torch.ones_like(m_GK)[:, :, None].expand(-1, K, K)
        else:
            gap_GKK = lists.of(reward_N)[:, :, None] - lists.of(reward_N)[:, None, :]
            widest_GK = torch.where(below_GKK, gap_GKK, 0.0).amax(-1)
            t_GKK = torch.where(own_KK[None], widest_GK[:, :, None], gap_GKK)
        t_GKK = t_GKK.to(m_GK.dtype)
        z_GKK = torch.where(below_GKK | own_KK[None], t_GKK * m_GK[:, None, :], -torch.inf)
        total_GK = z_GKK.logsumexp(-1)
        if self.floor:
            total_GK = torch.logaddexp(total_GK, total_GK.new_tensor(self.floor).log())
        loss_GK = total_GK - z_GKK.diagonal(dim1=1, dim2=2)
        return Loss.of((loss_GK * below_GKK.any(-1)).sum(-1))


def _of_members(scores: Scores, name: str) -> Tensor:
    r_N = scores.value(name)
    if len(r_N) != len(scores.role_N):
        raise ValueError(f"the value {name!r} is needed for every response, and there is one a contrast")
    return r_N


@dataclass(frozen=True)
class RanksSquared:
    """(n - 1)^2 for a list of n: as many ranks, each as strong as its contrasts."""

    def __call__(self, scores: Scores) -> Tensor:
        return (scores.over_group(torch.ones_like(scores.length_N)) - 1) ** 2


def plackett_luce(measure: Measure = PER_TOKEN) -> RankedSoftmax:
    """The likelihood of a ranking under Plackett and Luce (1975): L = -sum_k log softmax(m_k, ..., m_n)_k.

    m: mean token log-probabilities, or another measure; PRO (arXiv 2306.17492) without rewards. The
    contrast's order is the ranking.

    >>> s = Scores.of_pairs([-1.0], [-1.0])
    >>> round(float(plackett_luce()(s).mean(s)), 6)  # log 2
    0.693147
    """
    return RankedSoftmax(measure)


def pro(sft: float = 0.05, gaps: bool = True, floor: float = 1e-10) -> Sum:
    """Preference ranking optimisation (Song et al., arXiv 2306.17492, eq. 7 and the released loss).

    L = sum_{k<n} [ log( floor + sum_{i>=k} exp(t_ki p_i) ) - t_kk p_k ] - sft (n - 1)^2 log pi(y_1),
    p_i the mean token log-probability, log pi(y_1) the token sum of the best; t_ki = r_k - r_i from the value
    "score" of the members, t_kk = max_{i>k} t_ki, constants. ``gaps=False``: all t = 1 and the contrast's own order,
    for rankings without scores. No reference. Equal scores give t = 0: a constant.

    >>> s = Scores.of_pairs([-1.0], [-3.0], score=torch.tensor([[2.0, 1.0]]))
    >>> round(float(pro(sft=0.5)(s).mean(s)), 6)  # log(1 + exp(-2)) + 0.5 * 1
    0.626928
    """
    at_least(0, sft=sft, floor=floor)
    ranks = RankedSoftmax(by="score" if gaps else None, floor=floor)
    return add(ranks, scale(sft, weighted(likelihood(), RanksSquared())))
