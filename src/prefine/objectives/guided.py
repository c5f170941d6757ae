"""Self-guided pairs: two logistic halves, each with one side frozen and thinned to a random part of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.errors import InputError
from prefine.objectives.links import Link, logistic, smooth
from prefine.objectives.scores import Loss, Scores
from prefine.registry import positive


@dataclass(frozen=True)
class RandomTokens:
    """(N, T) 1 for k random tokens of every response, k = max(int(m rho), 1), m the shorter length of the pair.

    Without replacement, among the tokens that count; redrawn at every call from torch's generator, which the
    trainer sets from (seed, step). Drawn on the CPU, so every device gets the same tokens.

    >>> s = Scores.of_pairs([0.0], [0.0], chosen_length=[10], rejected_length=[4])
    >>> RandomTokens(0.6, 1.0)(s).sum(-1).tolist()  # m = 4: int(2.4) of the chosen, all 4 of the rejected
    [2.0, 4.0]
    """

    chosen: float = 0.6
    rejected: float = 0.9

    def __call__(self, scores: Scores) -> Tensor:
        mask_NT, group_N = scores.mask_NT.cpu(), scores.group_N.cpu()
        # In float64, where int(m rho) is what it is in Python: in less, 10 * 0.7 would be 6.
        chosen_G, rejected_G = (side.cpu().double() for side in scores.sides(scores.length_N))
        shorter_N = torch.minimum(chosen_G, rejected_G)[group_N]
        of_chosen, of_rejected = torch.tensor([self.chosen, self.rejected], dtype=torch.float64)
        share_N = torch.where(scores.role_N.cpu() > 0, of_chosen, of_rejected)
        k_N = (shorter_N * share_N).floor().clamp(min=1)
        lot_NT = torch.rand(mask_NT.shape).masked_fill(mask_NT == 0, torch.inf)
        place_NT = lot_NT.argsort(-1).argsort(-1)
        return ((place_NT < k_N[:, None]) & (mask_NT > 0)).to(scores.mask_NT)


@dataclass(frozen=True)
class SelfGuided:
    """L = 1/2 link( beta (R_w - sg[P_l]) ) + 1/2 link( beta (sg[P_w] - R_l) ).

    R: log-ratio of all tokens, with gradient; P ("pilot"): of the tokens picked, without. ``pick`` gives the
    (N, T) choice.
    """

    pick: RandomTokens = RandomTokens()
    link: Link = logistic
    beta: float = 0.1
    reference: str = "reference"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Loss:
        ratio_NT = scores.ratio_NT(self.reference)
        chosen_G, rejected_G = scores.sides(scores.sum(ratio_NT))
        pilot_chosen_G, pilot_rejected_G = scores.sides((ratio_NT.detach() * self.pick(scores)).sum(-1))
        up = self.link(self.beta * (chosen_G - pilot_rejected_G))
        down = self.link(self.beta * (pilot_chosen_G - rejected_G))
        return Loss.of(0.5 * up + 0.5 * down)


def self_guided(
    beta: float = 0.1,
    rho_chosen: float = 0.6,
    rho_rejected: float = 0.9,
    label_smoothing: float = 0.0,
    reference: str = "reference",
) -> SelfGuided:
    """Self-guided DPO (arXiv 2505.12435): how strongly each side moves is set by thinning the other's reward.

    L = -1/2 log sigma(beta (R_w - sg[P_l])) - 1/2 log sigma(beta (sg[P_w] - R_l)); see ``SelfGuided``. The chosen
    side's gradient is 1/2 beta sigma(-u1), the rejected side's 1/2 beta sigma(-u2), u1 and u2 the two arguments,
    where DPO's are equal. With rho = 1 and equal lengths the value is DPO's and the gradient half of DPO's.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])  # one token a side, so the pilots are whole; h = 2
    >>> round(float(self_guided(beta=1.0)(s).mean(s)), 6)  # log(1 + exp(-2))
    0.126928
    """
    positive(beta=beta)
    for name, share in (("rho_chosen", rho_chosen), ("rho_rejected", rho_rejected)):
        if not 0 < share <= 1:
            raise InputError(f"{name}={share!r} is not a share", remedy=f"give {name} above 0, up to 1 (all tokens)")
    return SelfGuided(RandomTokens(rho_chosen, rho_rejected), smooth(logistic, label_smoothing), beta, reference)
