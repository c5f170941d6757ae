"""Degrees of quality, made by taking content away: a classification beside any alignment loss.

A contrast carries, besides its pair, variants of its responses with growing parts of their content removed (members
with role 0; the curator ``degraded`` makes them). Their values: ``degree``, 0 .. K-1, how much is gone; ``of``, +1
or -1, of which side's response; members that are no variants have the degree -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefine.objectives.combine import add, scale
from prefine.objectives.pairwise import dpo
from prefine.objectives.readings import Learned, Reading, Size, View
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, one_of, positive

SIDES: Mapping[str, tuple[int, ...]] = {"both": (1, -1), "chosen": (1,)}
NAMES = {1: "degree-chosen", -1: "degree-rejected"}


class Classifier(nn.Module):
    """(N, K) logits of the degrees from the state of a response's last token: with gradient into the policy."""

    def __init__(self, degrees: int, lr_factor: float, size: Size) -> None:
        super().__init__()
        self.lr_factor = lr_factor
        self.head = nn.Linear(size.needed().hidden, degrees)

    def forward(self, view: View) -> Tensor:
        at = torch.arange(len(view.length_N), device=view.length_N.device)
        return self.head(view.states_NSD[at, view.length_N].to(self.head.weight.dtype))


@dataclass(frozen=True)
class Degree:
    """L_PD: the cross-entropy of a side's variants with their degrees, the mean over the variants of a contrast.

    >>> s = Scores(torch.zeros(3, 1), torch.ones(3, 1), torch.tensor([1, -1, 0]), torch.zeros(3, dtype=torch.long),
    ...            values={"degree": torch.tensor([-1.0, -1.0, 2.0]), "of": torch.tensor([1.0, -1.0, 1.0])},
    ...            readings={"degree-chosen": torch.zeros(3, 4)})
    >>> round(float(Degree(1, 4)(s).per_contrast), 6)  # log 4
    1.386294
    """

    side: int
    degrees: int
    lr_factor: float = 1.0
    references: tuple[str, ...] = ()

    @property
    def head(self) -> Callable[[Size], nn.Module]:
        return partial(Classifier, self.degrees, self.lr_factor)

    @property
    def readings(self) -> Mapping[str, Reading]:
        return {NAMES[self.side]: Learned(self.head, ("policy",), shape=("N", self.degrees))}

    def __call__(self, scores: Scores) -> Loss:
        degree_N, of_N = scores.value("degree"), scores.value("of")
        if len(degree_N) != len(scores.role_N):
            raise ValueError("a degree belongs to a member: give a number for each, -1 where there is none")
        if int(degree_N.max()) >= self.degrees:
            raise ValueError(f"degree {int(degree_N.max())} of {self.degrees}: they are numbered from 0")
        counts_N = ((degree_N >= 0) & (of_N == self.side)).to(scores.logp_NT.dtype)
        logits_NK = scores.reading(NAMES[self.side])
        error_N = F.cross_entropy(logits_NK, degree_N.clamp(min=0).long(), reduction="none")
        return Loss.of(scores.over_group(counts_N * error_N) / scores.over_group(counts_N).clamp(min=1))


def aware_of_degree(
    objective: Objective,
    gamma: float = 0.1,
    gamma_rejected: float | None = None,
    degrees: int = 4,
    sides: str = "both",
    head_lr: float = 1.0,
) -> Objective:
    """Any alignment loss with awareness of the degree of preference (Li et al., arXiv 2409.17791).

    L = L_align(y_w, y_l) + gamma L_PD(variants of y_w) + gamma_rejected L_PD(variants of y_l), a head for each side,
    thrown away after training. gamma = 0 is the alignment loss. ``sides``: "both" or "chosen".

    >>> aware_of_degree(dpo(0.1), 0.0) == dpo(0.1)
    True
    """
    at_least(0, gamma=gamma)
    at_least(2, degrees=degrees)
    positive(head_lr=head_lr)
    weights = {1: gamma, -1: gamma if gamma_rejected is None else gamma_rejected}
    at_least(0, gamma_rejected=weights[-1])
    chosen = [side for side in one_of("sides", sides, SIDES) if weights[side]]
    terms = [scale(weights[side], Degree(side, degrees, head_lr)) for side in chosen]
    return add(objective, *terms) if terms else objective


def spo_degree(
    beta: float = 0.1, gamma: float = 0.1, degrees: int = 4, sides: str = "both", reference: str = "reference"
) -> Objective:
    """Self-supervised preference optimisation (arXiv 2409.17791) over DPO: ``aware_of_degree(dpo(beta))``.

    >>> spo_degree(gamma=0.0) == dpo()
    True
    """
    return aware_of_degree(dpo(beta, reference=reference), gamma, degrees=degrees, sides=sides)
