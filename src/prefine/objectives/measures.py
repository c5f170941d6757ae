"""Measures: what one response is worth to an objective, a number a row, (N,), with gradient.

A new objective is often only a new measure: the pair, point and regression kernels take any of these. Each
says which references it reads, and whether it is a token sum or a token mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prefine.objectives.scores import Scores


class Measure(Protocol):
    """A function from scores to one number a row, (N,)."""

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the references it reads."""
        ...

    def __call__(self, scores: Scores) -> Tensor: ...


@dataclass(frozen=True)
class LogRatio:
    """log pi(y|x) - log ref(y|x): the implicit reward of DPO (arXiv 2305.18290), divided by beta.

    A sum over the tokens that count, or their mean.

    >>> s = Scores.of_pairs([-1.0], [-4.0], [-2.0], [-3.0])
    >>> LogRatio()(s).tolist()
    [1.0, -1.0]
    """

    mean: bool = False
    reference: str = "reference"

    @property
    def references(self) -> tuple[str, ...]:
        return (self.reference,)

    def __call__(self, scores: Scores) -> Tensor:
        return scores.ratio(self.reference, mean=self.mean)


LOG_RATIO = LogRatio()
"""The usual measure: token sums against the reference."""


@dataclass(frozen=True)
class LogProbability:
    """log pi(y|x), without a reference: a token mean (SimPO, arXiv 2405.14734) or sum.

    >>> s = Scores.of_pairs([-4.0], [-6.0], chosen_length=[2], rejected_length=[3])
    >>> LogProbability()(s).tolist(), LogProbability(mean=False)(s).tolist()
    ([-2.0, -2.0], [-4.0, -6.0])
    """

    mean: bool = True

    @property
    def references(self) -> tuple[str, ...]:
        return ()

    def __call__(self, scores: Scores) -> Tensor:
        return scores.mean() if self.mean else scores.sum()


@dataclass(frozen=True)
class LogOdds:
    """log P(y) / (1 - P(y)) with P(y) = exp(mean token log-probability): ORPO (arXiv 2403.07691, eq. 4).

    >>> s = Scores.of_pairs([-0.6931471805599453], [-1.3862943611198906])  # P = 1/2 and 1/4
    >>> [round(float(x), 4) for x in LogOdds()(s).double()]  # odds 1 and 1/3
    [0.0, -1.0986]
    """

    largest: float = -1e-6
    """The mean log-probability is cut here: odds of a certain response are infinite."""

    @property
    def references(self) -> tuple[str, ...]:
        return ()

    def __call__(self, scores: Scores) -> Tensor:
        logp_N = scores.mean().clamp(max=self.largest)
        return logp_N - log1mexp(logp_N)


@dataclass(frozen=True)
class Reward:
    """The output of a reward model: its "log-probability" is one number a response.

    >>> Reward()(Scores.of_pairs([2.0], [0.5])).tolist()
    [2.0, 0.5]
    """

    @property
    def references(self) -> tuple[str, ...]:
        return ()

    def __call__(self, scores: Scores) -> Tensor:
        return scores.sum()


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without loss of digits on either side of -log 2.

    >>> [round(float(v), 6) for v in log1mexp(torch.tensor([-0.6931471805599453, -20.0]).double())]
    [-0.693147, -0.0]
    """
    # Both branches get arguments from their own half, so that neither puts NaN into the other's gradient.
    near = x > -0.6931471805599453
    close = torch.where(near, x, torch.full_like(x, -0.5))
    far = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(close)), torch.log1p(-torch.exp(far)))
