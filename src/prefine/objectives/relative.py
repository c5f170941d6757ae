"""Contrasts across prompts: every chosen response of a step against every rejected one.

The step's batch is a matrix of M chosen by R rejected responses, and each cell a pair loss with a margin scaled by
how alike the two prompts are. What is known of a prompt is a vector, its values NAME.0, NAME.1, ... on the contrasts
(``curating.embedded``). Across prompts the partition terms of the implicit rewards do not cancel, which stays small
where only like prompts are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.links import Link, logistic
from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure
from prefine.objectives.scores import Loss, Scores
from prefine.registry import between, one_of, positive

Matrix = Callable[[Scores], Tensor]
"""(M, R) a number for every chosen and rejected response of a batch, a constant."""


@dataclass(frozen=True)
class Crossed:
    """L = mean over chosen i of sum_j share_ij link( beta w_ij (m(w_i) - m(l_j)) ), one value a chosen response.

    Weights and shares carry no gradient. A batch without a chosen or without a rejected response gives 0.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> round(float(Crossed()(s).mean(s)), 6)  # one pair: DPO, log(1 + exp(-2))
    0.126928
    """

    weight: Matrix | None = None
    share: Matrix | None = None
    measure: Measure = LOG_RATIO
    link: Link = logistic
    beta: float = 1.0
    whole_batch: bool = True

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        m_N = self.measure(scores)
        margin_MR = m_N[scores.role_N > 0][:, None] - m_N[scores.role_N < 0][None]
        if not margin_MR.numel():
            return Loss.of(0 * m_N[scores.role_N > 0], "chosen")
        weight_MR = torch.ones_like(margin_MR) if self.weight is None else self.weight(scores).detach()
        share_MR = torch.ones_like(margin_MR) / margin_MR.shape[1] if self.share is None else self.share(scores)
        return Loss.of((share_MR * self.link(self.beta * weight_MR * margin_MR)).sum(1), "chosen")


@dataclass(frozen=True)
class Similarity:
    """w_ij = softmax over j of -(1 - e_i . e_j) / tau, e the unit vectors of the prompts: rows sum to 1."""

    name: str = "embedding"
    tau: float = 0.5

    def __call__(self, scores: Scores) -> Tensor:
        e_GD = vector(scores, self.name)
        e_GD = e_GD / e_GD.norm(dim=1, keepdim=True).clamp(min=1e-12)
        chosen, rejected = (e_GD[scores.group_N[on]] for on in (scores.role_N > 0, scores.role_N < 0))
        return (-(1 - chosen @ rejected.T) / self.tau).softmax(1)


@dataclass(frozen=True)
class OwnPair:
    """``own`` for the rejected response of the same pair, the rest spread evenly over the others.

    >>> s = Scores.of_pairs([0.0] * 3, [0.0] * 3)
    >>> OwnPair(0.8)(s)[0].tolist() == [0.8, 0.1, 0.1] or OwnPair(0.8)(s)[0]
    tensor([0.8000, 0.1000, 0.1000])
    """

    own: float

    def __call__(self, scores: Scores) -> Tensor:
        scores.sides(scores.role_N)  # pairs, or a clear error
        G = scores.groups
        if G == 1:
            return scores.logp_NT.new_ones(1, 1)
        same_GG = torch.eye(G, dtype=scores.logp_NT.dtype, device=scores.logp_NT.device)
        return self.own * same_GG + (1 - self.own) / (G - 1) * (1 - same_GG)


def vector(scores: Scores, name: str) -> Tensor:
    """(G, D) the values NAME.0, NAME.1, ... of the contrasts."""
    columns, found = [scores.value(f"{name}.0")], 1
    while f"{name}.{found}" in scores.values:
        columns.append(scores.value(f"{name}.{found}"))
        found += 1
    return torch.stack(columns, 1)


def rpo_relative(
    beta: float = 0.1,
    tau: float = 0.5,
    contrast: str = "similar",
    diagonal: float = 0.8,
    reference: str = "reference",
) -> Crossed:
    """Relative preference optimisation (Yin et al., arXiv 2402.10958): contrasts across prompts.

    L = 1/M sum_i 1/R sum_j -log sigma( beta w_ij (a_i - b_j) ),  a_i, b_j the log-ratios (token sums) of the step's
    chosen and rejected responses; w_ij = softmax_j( -d_ij / tau ), d the cosine distance of the prompts' embeddings
    (values "embedding.0", ...). The weight is inside the sigmoid, the mean over j even. Paired and unpaired alike.
    contrast: "similar" as above; "uniform": w = 1; "diagonal": w = 1, the pair's own contrast with share c =
    ``diagonal`` and the mean of the others with 1 - c (needs pairs, no embeddings). A step of one pair is DPO.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> round(float(rpo_relative(beta=1.0, contrast="diagonal")(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    positive(beta=beta, tau=tau)
    if diagonal != 1:
        between(0, 1, diagonal=diagonal)
    parts: dict[str, tuple[Matrix | None, Matrix | None]] = {
        "similar": (Similarity("embedding", tau), None),
        "uniform": (None, None),
        "diagonal": (None, OwnPair(diagonal)),
    }
    weight, share = one_of("contrast", contrast, parts)
    return Crossed(weight, share, LogRatio(reference=reference), beta=beta)
