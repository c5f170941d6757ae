"""Margins from the reference's own preference: what DPO leaves to an assumption, asked for; and the diagnosis.

With Delta = log pi(y_w) - log pi(y_l) and Delta_ref the reference's: beta (Delta - Delta_ref) = G is all that DPO
wants of a pair with reward gap G, so where Delta_ref < -G/beta its optimum still prefers y_l.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefine.objectives.links import logistic, smooth
from prefine.objectives.margins import Margin
from prefine.objectives.measures import LogRatio
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Scores
from prefine.registry import at_least, one_of, positive


@dataclass(frozen=True)
class Rarity:
    """gamma ( 1/ref(y_w) + 1/ref(y_l) ), at most ``cap``: from the stationary condition of the constrained problem.

    ``mean``: probabilities a token, exp(log ref(y)/|y|); those of whole responses are out of any scale.

    >>> s = Scores.of_pairs([0.0], [0.0], torch.tensor([-0.6931471805599453]), torch.tensor([-1.3862943611198906]))
    >>> round(float(Rarity(gamma=0.5)(s)), 4)  # 0.5 (2 + 4)
    3.0
    """

    gamma: float
    cap: float = 5.0
    mean: bool = True
    reference: str = "reference"

    def __call__(self, scores: Scores) -> Tensor:
        logp_NT = scores.references[self.reference]
        logp_N = scores.mean(logp_NT) if self.mean else scores.sum(logp_NT)
        # exp would overflow long before the cap is looked at, and 0 times infinity is no number
        rarity_G = torch.stack(scores.sides((-logp_N).clamp(max=60.0).exp())).sum(0)
        return (self.gamma * rarity_G).clamp(max=self.cap)


@dataclass(frozen=True)
class Shortfall:
    """beta max(0, -Delta_ref) + gamma: the logit is asked to make up for the reference, all of it.

    >>> s = Scores.of_pairs([0.0], [0.0], [-3.0], [-1.0])  # Delta_ref = -2
    >>> Shortfall(beta=0.5)(s).tolist()
    [1.0]
    """

    beta: float
    gamma: float = 0.0
    reference: str = "reference"

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, rejected_G = scores.sides(scores.sum(scores.references[self.reference]))
        return self.beta * (rejected_G - chosen_G).clamp(min=0) + self.gamma


def constrained(
    beta: float = 0.1,
    gamma: float = 0.1,
    margin: str = "stationary",
    cap: float = 5.0,
    mean: bool = True,
    label_smoothing: float = 0.0,
    reference: str = "reference",
) -> Pairs:
    """Constrained preference optimisation (arXiv 2605.20834): DPO with a margin that the reference sets.

    L = -log sigma( beta (Delta - Delta_ref) - m ), token sums, m a constant of the pair:
    "stationary": m = gamma (1/ref(y_w) + 1/ref(y_l)), at most ``cap``; ref a token's probability
    in the geometric mean (``mean``), or the whole response's;
    "conservative": m = beta max(0, -Delta_ref) + gamma, which asks for Delta >= 0.
    gamma = 0 with "stationary" is DPO.

    >>> s = Scores.of_pairs([-1.0], [-1.0], torch.tensor([-0.6931471805599453]), torch.tensor([-0.6931471805599453]))
    >>> round(float(constrained(beta=1.0, gamma=0.5)(s).mean(s)), 4)  # h = 0, m = 0.5 (2 + 2): log(1 + exp(2))
    2.1269
    """
    positive(beta=beta, cap=cap)
    at_least(0, gamma=gamma)
    margins: Mapping[str, Callable[[], Margin]] = {
        "stationary": lambda: Rarity(gamma, cap, mean, reference) if gamma else 0.0,
        "conservative": lambda: Shortfall(beta, gamma, reference),
    }
    made = one_of("margin", margin, margins)()
    return Pairs(LogRatio(reference=reference), smooth(logistic, label_smoothing), beta, made)


def diagnosis(delta: Sequence[float] | np.ndarray, delta_ref: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Where pairs stand, from Delta of the policy and of its reference (arXiv 2605.20834).

    ``preferred``: share with Delta > 0; ``undesirable``: share with Delta_ref < Delta < 0, where DPO's loss is
    below its start and y_l is preferred all the same; ``escaped``: of those with Delta_ref <= 0, the share with
    Delta > 0 now; ``reference_against``: share with Delta_ref <= 0.

    >>> diagnosis([1.0, -1.0, -1.0, 2.0], [-1.0, -2.0, -0.5, 1.0])["undesirable"]
    0.25
    """
    now, before = np.asarray(delta, dtype=float), np.asarray(delta_ref, dtype=float)
    against = before <= 0
    return {
        "preferred": float((now > 0).mean()),
        "undesirable": float(((before < now) & (now < 0)).mean()),
        "escaped": float((now[against] > 0).mean()) if against.any() else 0.0,
        "reference_against": float(against.mean()),
    }
