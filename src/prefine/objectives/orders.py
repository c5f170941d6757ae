"""Distributions over orders: how likely every ranking of a prompt's K responses is, to a student and to its teacher.

A score a response defines, by Plackett and Luce, a probability of each of the K! orders tau:

    log P(tau) = sum_k [ x_{tau_k} - log sum_{j >= k} exp x_{tau_j} ]

The student's x are its own measures, the teacher's a value of the members, a constant. So what is taught is not who is
best but how sure of every order the teacher is: responses it cannot tell apart stay near one half.
Shapes: G contrasts of K members each, orders O = K!.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import log

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.listwise import PER_TOKEN, table
from prefine.objectives.measures import Measure
from prefine.objectives.scores import Loss, Scores
from prefine.registry import one_of, positive

MOST = 6
"""Responses of a prompt whose orders are still counted out: 720 of them."""

Divergence = Callable[[Tensor, Tensor], Tensor]
"""(log P of the student, log P of the teacher), (G, O) each -> (G,)."""


@cache
def orders(K: int) -> Tensor:
    """(O, K) all orders of 0 .. K-1.

    >>> orders(2).tolist()
    [[0, 1], [1, 0]]
    """
    if K > MOST:
        raise InputError(
            f"a distribution over all orders of {K} responses", remedy=f"take at most {MOST} responses a prompt"
        )
    return torch.tensor(list(permutations(range(K))))


def ranked(x: Tensor) -> Tensor:
    """(...) log-probability of the order in which K scores stand along the last axis.

    >>> round(float(ranked(torch.tensor([2.0, 0.0])).exp()), 6)  # sigma(2)
    0.880797
    """
    return (x - x.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)


def over_orders(x_GK: Tensor) -> Tensor:
    """(G, O) log-probabilities of all orders of K scores."""
    return ranked(x_GK[:, orders(x_GK.shape[1]).to(x_GK.device)])


def jensen_shannon(log_s: Tensor, log_t: Tensor) -> Tensor:
    """1/2 KL( P_s || M ) + 1/2 KL( P_t || M ), M = (P_s + P_t)/2: between 0 and log 2, the same both ways."""
    log_m = torch.logaddexp(log_s, log_t) - log(2)
    return (kl(log_s, log_m) + kl(log_t, log_m)) / 2


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL( p || q ) along the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


DIVERGENCES: Mapping[str, Divergence] = {
    "jensen-shannon": jensen_shannon,
    "forward": lambda log_s, log_t: kl(log_t, log_s),
    "reverse": kl,
}
"""Between student and teacher; forward is the cross-entropy of the teacher, less a constant."""


def by_size(scores: Scores, by: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """(which contrasts (H,), their rows (H, K)) for every number K of members there is; sorted, as ``table`` does."""
    members = table(scores, by)
    size_G = members.there_GK.sum(1)
    for K in size_G.unique().tolist():
        at_H = (size_G == K).nonzero()[:, 0]
        yield at_H, members.row_GK[at_H, :K]


def taught(scores: Scores, name: str) -> Tensor:
    """(N,) what the teacher says of every member."""
    t_N = scores.value(name)
    if len(t_N) != len(scores.role_N):
        raise ValueError(f"the value {name!r} is needed for every response, and there is one a contrast")
    return t_N.detach()


@dataclass(frozen=True)
class OrdersTaught:
    """L = divergence( P_s, P_t ) over all orders, P_s from beta m, P_t from beta_t t; one value a contrast.

    ``teacher`` names the value t; beta_t is beta unless given. A constant added to all t or all m of a contrast
    changes nothing.

    >>> s = Scores.of_pairs([-1.0], [-2.0], score=torch.tensor([[-5.0, -6.0]]))  # gaps of 1, both of them
    >>> round(float(OrdersTaught(beta=1.0)(s).mean(s)), 6)
    0.0
    """

    teacher: str = "score"
    measure: Measure = PER_TOKEN
    beta: float = 10.0
    divergence: Divergence = jensen_shannon
    beta_t: float | None = None

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        beta_t = self.beta if self.beta_t is None else self.beta_t
        own_N, t_N = self.beta * self.measure(scores), beta_t * taught(scores, self.teacher)
        loss_G = own_N.new_zeros(scores.groups)
        for at_H, row_HK in by_size(scores):
            distance_H = self.divergence(over_orders(own_N[row_HK]), over_orders(t_N.to(own_N)[row_HK]))
            loss_G = loss_G.index_add(0, at_H, distance_H)
        return Loss.of(loss_G)


@dataclass(frozen=True)
class OrderTaught:
    """L = -log P_s(tau_t): the likelihood of the teacher's own order, best first (equals as they stand).

    >>> s = Scores.of_pairs([-1.0], [-2.0], score=torch.tensor([[-5.0, -6.0]]))
    >>> round(float(OrderTaught(beta=1.0)(s).mean(s)), 6)  # -log sigma(1)
    0.313262
    """

    teacher: str = "score"
    measure: Measure = PER_TOKEN
    beta: float = 10.0

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        own_N = self.beta * self.measure(scores)
        loss_G = own_N.new_zeros(scores.groups)
        for at_H, row_HK in by_size(scores, taught(scores, self.teacher)):
            loss_G = loss_G.index_add(0, at_H, -ranked(own_N[row_HK]))
        return Loss.of(loss_G)


def pad(
    beta: float = 10.0, divergence: str = "jensen-shannon", beta_t: float | None = None, teacher: str = "score"
) -> OrdersTaught:
    """Preference-aligned distillation (PAD, arXiv 2502.14272): the teacher's distribution over all orders.

    L = JSD( P_s, P_t ), P_s from beta log pi(y_i)/|y_i| and P_t from beta_t t_i by Plackett and Luce; t the members'
    value ``teacher``, beta_t = beta unless t is on another scale than log-probabilities a token. "forward":
    KL(P_t || P_s), "reverse": KL(P_s || P_t). No reference. Gradient through the student alone; the mixture M is
    taken prompt by prompt.

    >>> s = Scores.of_pairs([-1.0], [-1.0], score=torch.tensor([[9.0, 0.0]]))  # 1/2 each, against sure
    >>> round(float(pad(beta=100.0)(s).mean(s)), 6)  # (log(2/3) + log(2))/4 + log(4/3)/2
    0.215762
    """
    positive(beta=beta, **({} if beta_t is None else {"beta_t": beta_t}))
    kind = one_of("divergence", divergence, DIVERGENCES)
    return OrdersTaught(teacher, beta=beta, divergence=kind, beta_t=beta_t)


def ranked_by(beta: float = 10.0, teacher: str = "score") -> OrderTaught:
    """The likelihood of the teacher's order alone (PAD's vanilla form, arXiv 2502.14272). With K = 2: SimPO, no margin.

    >>> s = Scores.of_pairs([-1.0], [-1.0], score=torch.tensor([[9.0, 0.0]]))
    >>> round(float(ranked_by()(s).mean(s)), 6)  # log 2
    0.693147
    """
    positive(beta=beta)
    return OrderTaught(teacher, beta=beta)
