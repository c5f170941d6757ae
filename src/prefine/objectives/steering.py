"""A pair loss with the same pair under principles beside it, weighed by how likely the policy is to say both (SSO).

A contrast has three pairs, in slots (the members' value "slot"): 0 the pair under the plain prompt, 1 the pair under a
good principle, 2 a pair under a bad one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.combine import Combination
from prefine.objectives.pairwise import dpo
from prefine.objectives.scores import Loss, Objective, Scores
from prefine.registry import at_least, between, one_of, positive


def in_slot(scores: Scores, slot: int) -> Scores:
    """The pairs of one slot as scores of their own, in the order of the contrasts.

    >>> from dataclasses import replace
    >>> s = Scores.of_pairs([-1.0, -2.0], [-3.0, -4.0], slot=torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    >>> in_slot(replace(s, group_N=torch.zeros(4, dtype=torch.long)), 1).logp_NT.tolist()
    [[-2.0], [-4.0]]
    """
    if "slot" not in scores.values:
        return scores
    rows = (scores.value("slot") == slot).nonzero()[:, 0]
    N = len(scores.role_N)
    return Scores(
        logp_NT=scores.logp_NT[rows],
        mask_NT=scores.mask_NT[rows],
        role_N=scores.role_N[rows],
        group_N=scores.group_N[rows],
        references={name: ref[rows] for name, ref in scores.references.items()},
        values={n: v[rows] if len(v) == N else v for n, v in scores.values.items() if n != "slot"},
        ids_N=tuple(scores.ids_N[i] for i in rows.tolist()) if scores.ids_N else (),
        readings={n: r[rows] if r.ndim and len(r) == N else r for n, r in scores.readings.items()},
    )


@dataclass(frozen=True)
class Likely:
    """(G,) W = sigma( -[ alpha lbar(y_w) + (1 - alpha) lbar(y_l) ] ), lbar the mean log-probability a token: between
    1/2, where the policy is certain of both, and 1. With its gradient unless ``detach``.

    >>> s = Scores.of_pairs([-1.0], [-3.0])
    >>> round(float(Likely(0.5)(s)), 6)  # sigma(2)
    0.880797
    """

    alpha: float = 0.66
    detach: bool = False

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, rejected_G = scores.sides(scores.mean())
        weight_G = torch.sigmoid(-(self.alpha * chosen_G + (1 - self.alpha) * rejected_G))
        return weight_G.detach() if self.detach else weight_G


@dataclass(frozen=True)
class Steered(Combination):
    """L = L_0 + W g (L_1 + L_2) + ftx NLL, L_k the pair loss in slot k. See ``steered``."""

    objective: Objective
    g: float
    extra: Callable[[Scores], Tensor] | None
    plain: Callable[[Scores], Tensor] | None
    ftx: float = 0.0

    def __call__(self, scores: Scores) -> Loss:
        main = in_slot(scores, 0)
        loss = self._pair(main) if self.plain is None else self.plain(main) * self._pair(main)
        beside = [in_slot(scores, slot) for slot in (1, 2)] if "slot" in scores.values else []
        if beside and self.g:
            more = self.g * (self._pair(beside[0]) + self._pair(beside[1]))
            loss = loss + (more if self.extra is None else self.extra(main) * more)
        if self.ftx:
            for part, factor in zip((main, *beside), (1.0, self.g, self.g), strict=False):
                loss = loss + self.ftx * factor * Loss.of(-part.chosen(part.mean()))
        return loss

    def _pair(self, scores: Scores) -> Loss:
        loss = self.objective(scores)
        if any(term.per != "contrast" for term in loss.terms):
            raise ValueError("steering weighs contrasts: put it around a loss that is one value a contrast")
        return loss


def steered(
    objective: Objective,
    g: float = 0.1,
    alpha: float = 0.66,
    weigh: str = "extra",
    detach: bool = False,
    ftx: float = 0.0,
) -> Steered:
    """Self-steering (SSO, arXiv 2410.17131) around any pair loss: L = L_0 + W g (L_1 + L_2) over three slots.

    L_0: the pair under x; L_1: under (s+, x); L_2: the pair of slot 2 under (s-, x) (``curating.steered``). W: see
    ``Likely``, with gradient as in the release (``detach``: without). ``weigh``: "extra" (W on L_1 + L_2), "pair" (W
    on L_0, and no L_1 and L_2), "none". ``ftx``: times -lbar of the chosen of every slot, those of slots 1 and 2 by g.
    Contrasts without slots are pairs under x; g = 0 is the loss itself.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> torch.equal(steered(dpo(0.1))(s).mean(s), dpo(0.1)(s).mean(s))
    True
    """
    at_least(0, g=g, ftx=ftx)
    between(0, 1.0000001, alpha=alpha)
    likely = Likely(alpha, detach)
    forms: Mapping[str, Callable[[], Steered]] = {
        "extra": lambda: Steered(objective, g, likely, None, ftx),
        "pair": lambda: Steered(objective, 0.0, None, likely, ftx),
        "none": lambda: Steered(objective, g, None, None, ftx),
    }
    return one_of("weigh", weigh, forms)()


def sso(beta: float = 0.2, g: float = 0.1, alpha: float = 0.66, weigh: str = "extra", ftx: float = 0.0) -> Steered:
    """Self-steering of DPO (SSO, arXiv 2410.17131): steered:dpo(beta=0.2).

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> torch.equal(sso(beta=0.1)(s).mean(s), dpo(0.1)(s).mean(s))
    True
    """
    positive(beta=beta)
    return steered(dpo(beta), g, alpha, weigh, ftx=ftx)
