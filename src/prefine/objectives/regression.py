"""Regression: every response's log-ratio towards its own target, (m(y) - target(y))^2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch  # noqa: F401  (for the examples)
from torch import Tensor

from prefine.objectives.links import Link, squared
from prefine.objectives.measures import LOG_RATIO, LogRatio, Measure
from prefine.objectives.scores import Loss, Scores
from prefine.registry import positive


@dataclass(frozen=True)
class Regression:
    """L = factor * sum over members of link( m(y) - target(y) ), one value a contrast; targets detached.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], win=torch.tensor([[0.75, 0.25]]))
    >>> Regression(Centred("win", 4.0))(s).per_contrast.tolist()  # 1/2 [(1 - 1)^2 + (-1 + 1)^2]
    [0.0]
    """

    target: Callable[[Scores], Tensor]
    measure: Measure = LOG_RATIO
    link: Link = squared
    factor: float = 0.5

    @property
    def references(self) -> tuple[str, ...]:
        return self.measure.references

    def __call__(self, scores: Scores) -> Loss:
        error_N = self.measure(scores) - self.target(scores).detach()
        return Loss.of(self.factor * scores.over_group(self.link(error_N)))


@dataclass(frozen=True)
class Centred:
    """c (v - 1/2) for a value of the members, a probability."""

    name: str
    factor: float

    def __call__(self, scores: Scores) -> Tensor:
        return self.factor * (scores.value(self.name) - 0.5)


@dataclass(frozen=True)
class Sided:
    """+-c (p - 1/2), by role, for a value of the contrast: p the probability that the chosen wins."""

    name: str
    factor: float
    default: float | None = None

    def __call__(self, scores: Scores) -> Tensor:
        p_N = scores.value(self.name, self.default)[scores.group_N]
        return self.factor * (p_N - 0.5) * scores.role_N.sign()


def sppo(eta: float = 1000.0, reference: str = "reference") -> Regression:
    """Self-play preference optimisation (Wu et al., arXiv 2405.00675, eq. 4.7).

    L = 1/2 sum over the pair of [ log pi(y)/ref(y) - eta (win(y) - 1/2) ]^2, token sums; ``win`` a value of
    the members, the win rate against the round's own samples; eta = 1/beta of the released code.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0], win=torch.tensor([[1.0, 0.5]]))
    >>> sppo(eta=2.0)(s).per_contrast.tolist()  # 1/2 [(1 - 1)^2 + (-1 - 0)^2]
    [0.5]
    """
    positive(eta=eta)
    return Regression(Centred("win", eta), LogRatio(reference=reference))


def sppo_single(eta: float = 1000.0, hard: bool = False, reference: str = "reference") -> Regression:
    """SPPO from one comparison (released code of arXiv 2405.00675): targets +-eta (p - 1/2).

    p is the value "preference", the probability that w beats l; ``hard`` takes p = 1, the label as it is, for
    data without probabilities.

    >>> s = Scores.of_pairs([-1.0], [-3.0], [-2.0], [-2.0])
    >>> sppo_single(eta=4.0, hard=True)(s).per_contrast.tolist()  # 1/2 [(1 - 2)^2 + (-1 + 2)^2]
    [1.0]
    """
    positive(eta=eta)
    target = Sided("label", eta, 1.0) if hard else Sided("preference", eta)
    return Regression(target, LogRatio(reference=reference))
