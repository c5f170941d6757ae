"""How likely the policy itself is to say what it learns from, as the weight of a pair: over any pair objective.

    w(y) = exp( 1/|y| sum_t [ log pi(y_t | x, y_<t) - c_t ] ),     W = min( w(y_w) w(y_l), 1 ),     L = sg[W] L_pair

c_t calibrates every token, so that the policy's own text weighs about 1 whatever the entropy of its places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch  # noqa: F401  (for the examples)
from torch import Tensor

from prefine.objectives.combine import Weighted, weighted
from prefine.objectives.pairwise import dpo
from prefine.objectives.readings import Distribution, Reading, collision, peak
from prefine.objectives.scores import Objective, Scores
from prefine.registry import one_of

CALIBRATIONS: Mapping[str, Mapping[str, Reading]] = {
    "sampled": {"collision": Distribution(collision)},
    "greedy": {"peak": Distribution(peak)},
    "none": {},
}
"""c_t by name: log sum_v pi(v)^2, what a sampled token has on average; log max_v pi(v); nothing."""


@dataclass(frozen=True)
class OnPolicy:
    """(G,) min( w(y_w) w(y_l), 1 ), the product of length-normalised, calibrated likelihoods of a pair.

    >>> s = Scores.of_pairs([-1.0], [-3.0], chosen_length=[2], rejected_length=[3])
    >>> round(float(OnPolicy(())(s)), 6)  # exp(-1/2) exp(-1)
    0.22313
    """

    calibration: tuple[tuple[str, Reading], ...]
    clip: float | None = 1.0

    @property
    def readings(self) -> Mapping[str, Reading]:
        return dict(self.calibration)

    def __call__(self, scores: Scores) -> Tensor:
        surplus_NT = scores.logp_NT.detach()
        for name, _ in self.calibration:
            surplus_NT = surplus_NT - scores.reading(name)
        chosen_G, rejected_G = scores.sides(scores.mean(surplus_NT))
        weight_G = (chosen_G + rejected_G).exp()
        return weight_G if self.clip is None else weight_G.clamp(max=self.clip)


def on_policy(objective: Objective, calibration: str = "sampled", clip: bool = True) -> Weighted:
    """Any pair objective with pairs weighted by how likely the policy is to say both (Zhou et al., arXiv 2406.11827).

    The weight is computed anew at every step, never differentiated, and not renormalised within the batch.
    ``calibration``: "sampled" (eq. 2), "greedy" or "none". ``clip``: at 1, as in the official code. Not over an
    objective that mixes the pairs of a batch.

    >>> s = Scores.of_pairs([-2.0], [-2.0], [-2.0], [-2.0], chosen_length=[2], rejected_length=[4])
    >>> round(float(on_policy(dpo(1.0), "none")(s).mean(s)), 6)  # exp(-1 - 1/2) log 2
    0.154662
    """
    readings = one_of("calibration", calibration, CALIBRATIONS)
    return weighted(objective, OnPolicy(tuple(readings.items()), 1.0 if clip else None))


def wpo(
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    calibration: str = "sampled",
    clip: bool = True,
    reference: str = "reference",
) -> Weighted:
    """Weighted preference optimisation (Zhou et al., arXiv 2406.11827, eq. 3): DPO, ``on_policy``.

    L = -sg[W] log sigma(beta h), W the pair's calibrated likelihood under the policy. W = 1 is DPO.

    >>> s = Scores.of_pairs([0.0], [0.0], [-1.0], [-1.0])  # certain of both: W = 1
    >>> round(float(wpo(beta=1.0, calibration="none")(s).mean(s)), 6)
    0.693147
    """
    return on_policy(dpo(beta, label_smoothing, reference), calibration, clip)
