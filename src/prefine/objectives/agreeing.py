"""Several judges inside one model, brought to agree while it learns from what they agree on (SCIR).

A contrast has two responses, without sides, and the words of verdicts about them as further members under prompts of
their own (``curating.internal_pairs``). The members' values say which is which: ``judge`` 0 is a response, 1, 2, ...
a verdict on that judge's question; ``order`` tells the questions of one judge apart; ``says`` is 1 for the first
response and for words that call it the better one, -1 for the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.objectives.scores import Loss, Scores
from prefine.registry import at_least, between, one_of, positive

Bernoulli = tuple[Tensor, Tensor]
"""(log P, log(1 - P)) that the first response is the better one, (G,) each."""


@dataclass(frozen=True)
class Agreeing:
    """L = c * -log sigma( s beta h ) + lam L_cons: see ``scir``."""

    beta: float = 0.1
    lam: float = 0.5
    entropy: float = 0.1
    margin: float = 0.0
    label_by: str = "all"
    still_targets: bool = False
    mean: bool = False
    reference: str = "reference"
    scoring: str = "scoring"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference, self.scoring)

    def __call__(self, scores: Scores) -> Loss:
        told = self.judges(scores)
        side_G = consensus([told[i] for i in LABEL_BY[self.label_by](len(told))], self.margin)
        h_G = self._gap(scores, scores.ratio(self.reference, mean=self.mean), 0, 0)[0]
        learnt_G = side_G.abs() * -logsigmoid(side_G * self.beta * h_G)
        return Loss.of(learnt_G + self.lam * inconsistency(told, self.entropy, self.still_targets))

    def judges(self, scores: Scores) -> list[Bernoulli]:
        """The implicit reward's probability, then every judge's, the mean over the orders it was asked in."""
        judge_N, order_N = (_of_members(scores, name) for name in ("judge", "order"))
        implicit_N = self.beta * scores.ratio(self.scoring, mean=self.mean)
        found = []
        for j in range(int(judge_N.max()) + 1):
            x_N = implicit_N if j == 0 else scores.sum()
            orders = [self._gap(scores, x_N, j, o) for o in range(int(order_N[judge_N == j].max()) + 1)]
            if not all(bool(there_G.all()) for _, there_G in orders):
                raise ValueError("this objective needs every judge's verdict on every pair")
            yes, no = (torch.stack([logsigmoid(sign * z_G) for z_G, _ in orders]) for sign in (1, -1))
            found.append((yes.logsumexp(0) - math.log(len(orders)), no.logsumexp(0) - math.log(len(orders))))
        return found

    @staticmethod
    def _gap(scores: Scores, x_N: Tensor, judge: int, order: int) -> tuple[Tensor, Tensor]:
        """(G,) what speaks for the first response less what speaks for the second, and whether both are there."""
        of_N = (_of_members(scores, "judge") == judge) & (_of_members(scores, "order") == order)
        says_N = torch.where(of_N, _of_members(scores, "says"), 0.0)
        return scores.over_group(says_N * torch.where(of_N, x_N, 0.0)), scores.over_group(says_N.abs()) == 2


LABEL_BY = {"all": lambda n: range(n), "implicit": lambda n: range(1), "generative": lambda n: range(1, n)}
"""Whose verdict is the label, of n judges."""


def consensus(told: list[Bernoulli], margin: float = 0.0) -> Tensor:
    """(G,) 1 or -1 where all say so by more than the margin, else 0; a constant.

    >>> p, q = (torch.tensor(x) for x in ([0.9, 0.6, 0.5], [0.7, 0.4, 0.9]))
    >>> consensus([(p.log(), (1 - p).log()), (q.log(), (1 - q).log())]).tolist()
    [1.0, 0.0, 0.0]
    """
    away = torch.stack([yes.exp() - no.exp() for yes, no in told]).detach() / 2
    return (away > margin).all(0).to(away.dtype) - (away < -margin).all(0).to(away.dtype)


def inconsistency(told: list[Bernoulli], entropy: float = 0.0, still_targets: bool = False) -> Tensor:
    """(G,) mean over couples of judges of [KL(P_j || P_k) + KL(P_k || P_j)]/2, plus ``entropy`` mean_j H(P_j).

    ``still_targets``: the first argument of every KL has no gradient.

    >>> p = (torch.tensor([0.25]).log(), torch.tensor([0.75]).log())
    >>> [round(float(inconsistency([p, q])), 6) for q in (p, p[::-1])]  # (1/4 - 3/4) log(1/3)
    [0.0, 0.549306]
    """
    n = len(told)
    couples = [(j, k) for j in range(n) for k in range(n) if j != k]
    total = sum((bernoulli_kl(told[j], told[k], still_targets) for j, k in couples), torch.zeros_like(told[0][0]))
    doubt = sum((-(yes.exp() * yes + no.exp() * no) for yes, no in told), torch.zeros_like(told[0][0]))
    return total / max(len(couples), 1) + entropy * doubt / n


def bernoulli_kl(p: Bernoulli, q: Bernoulli, still: bool = False) -> Tensor:
    """(G,) P log(P/Q) + (1 - P) log((1 - P)/(1 - Q)); ``still``: no gradient through P."""
    yes, no = (x.detach() if still else x for x in p)
    return yes.exp() * (yes - q[0]) + no.exp() * (no - q[1])


def _of_members(scores: Scores, name: str) -> Tensor:
    x_N = scores.value(name)
    if len(x_N) != len(scores.role_N):
        raise ValueError(f"the value {name!r} is needed for every member, and there is one a contrast")
    return x_N


def scir(
    beta: float = 0.1,
    lam: float = 0.5,
    entropy: float = 0.1,
    margin: float = 0.0,
    label_by: str = "all",
    still_targets: bool = False,
    mean: bool = False,
) -> Agreeing:
    """Self-consistency of internal rewards (SCIR, arXiv 2502.08922; the form of the penalty is reconstructed).

    P_0 = sigma( beta [log-ratio(y_1) - log-ratio(y_2)] ) against the reference "scoring"; P_j, of the question of judge
    j, p(first)/(p(first) + p(second)), the mean over both orders.

    L = c -log sigma( s beta h ) + lam ( mean_{j<k} [KL(P_j||P_k) + KL(P_k||P_j)]/2 + entropy mean_j H(P_j) ),

    h against the reference "reference"; s = 1 or -1 and c = 1 where all P_j are on that side of 1/2 by more than
    ``margin``, c = 0 elsewhere, both from the policy as it is at this step, without gradient. label_by: "implicit" or
    "generative": that judge alone gives labels (with lam = 0: DICE's, or self-rewarding, DPO). still_targets: no
    gradient through the KLs' first arguments. mean: token means in the log-ratios.

    >>> values = {"judge": [0, 0, 1, 1], "order": [0] * 4, "says": [1, -1, 1, -1]}
    >>> logp, ref, one = (torch.tensor(x)[:, None] for x in ([-1.0, -2, -0.5, -1.5], [-2.0, -2, 0, 0], [1.0] * 4))
    >>> s = Scores(logp, one, torch.zeros(4), torch.zeros(4).long(), {"reference": ref, "scoring": ref},
    ...            {name: torch.tensor(v).float() for name, v in values.items()})
    >>> round(float(scir(beta=1.0, lam=1.0, entropy=0.0)(s).mean(s)), 6)  # both P are sigma(1)
    0.313262
    """
    positive(beta=beta)
    at_least(0, lam=lam, entropy=entropy)
    between(0, 0.5, margin=margin)
    one_of("label_by", label_by, LABEL_BY)
    return Agreeing(beta, lam, entropy, margin, label_by, still_targets, mean)
