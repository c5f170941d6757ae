"""Pair losses for pairs from the optimal policy: a margin of its own temperature, logistic or hinge."""

from __future__ import annotations

from collections.abc import Mapping

import torch  # noqa: F401  (for the examples)

from prefine.objectives.links import Link, hinge, logistic
from prefine.objectives.measures import LOG_RATIO, LogProbability, Measure
from prefine.objectives.pairwise import Pairs
from prefine.objectives.scores import Scores  # noqa: F401  (for the examples)
from prefine.registry import one_of, positive

LOSSES: Mapping[str, tuple[Measure, Link]] = {
    "sigmoid-norm": (LOG_RATIO, logistic),
    "hinge-norm": (LOG_RATIO, hinge),
    "hinge": (LogProbability(mean=False), hinge),
}
"""Name -> (normalised by the reference or not, link)."""


def rso(gamma: float = 0.05, loss: str = "sigmoid-norm") -> Pairs:
    """The losses of RSO (Liu et al., arXiv 2309.06657, sec. 3.4): with D the gap of log-ratios, G that of log pi,

    "sigmoid-norm": -log sigma(gamma D), DPO's; "hinge-norm": max(0, 1 - gamma D); "hinge": max(0, 1 - gamma G),
    which is SLiC (arXiv 2305.10425) and reads no reference. Token sums. gamma, the confidence in the labels, is
    not the beta that the responses were sampled with.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-5.0])  # D = -1, G = 2
    >>> [round(float(rso(0.5, loss)(s).mean(s)), 6) for loss in LOSSES]  # log(1 + e^.5), 1 + .5, 1 - 1
    [0.974077, 1.5, 0.0]
    """
    positive(gamma=gamma)
    measure, link = one_of("loss", loss, LOSSES)
    return Pairs(measure, link, gamma)
