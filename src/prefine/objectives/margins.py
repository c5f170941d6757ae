"""Margins: what is taken away from the difference of a pair before the link, (G,), a constant for the policy.

With the squared link a margin is the target of a regression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prefine.objectives.scores import Scores

Margin = float | Callable[[Scores], Tensor]


def margin_of(margin: Margin, scores: Scores) -> float | Tensor:
    """A number as it is; a function of the scores called and detached."""
    return margin(scores).detach() if callable(margin) else margin


@dataclass(frozen=True)
class LengthGap:
    """alpha (|y_w| - |y_l|) in tokens that count.

    >>> s = Scores.of_pairs([0.0], [0.0], chosen_length=[5], rejected_length=[2])
    >>> LengthGap(0.5)(s).tolist()
    [1.5]
    """

    alpha: float

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, rejected_G = scores.sides(scores.length_N)
        return self.alpha * (chosen_G - rejected_G)


@dataclass(frozen=True)
class ValueGap:
    """c (v_w - v_l) for a value of the members: win rates, rewards.

    >>> s = Scores.of_pairs([0.0], [0.0], win=torch.tensor([[0.75, 0.25]]))
    >>> ValueGap("win", 2.0)(s).tolist()
    [1.0]
    """

    name: str
    factor: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, rejected_G = scores.sides(scores.value(self.name))
        return self.factor * (chosen_G - rejected_G)


@dataclass(frozen=True)
class Valued:
    """c v + d for a value of the contrast: a stated margin, or a probability p as c = 2, d = -1.

    >>> s = Scores.of_pairs([0.0], [0.0], preference=[0.75])
    >>> Valued("preference", 2.0, -1.0)(s).tolist()
    [0.5]
    """

    name: str
    factor: float = 1.0
    shift: float = 0.0

    def __call__(self, scores: Scores) -> Tensor:
        return self.factor * scores.value(self.name) + self.shift


@dataclass(frozen=True)
class Plus:
    """The sum of two margins.

    >>> s = Scores.of_pairs([0.0], [0.0], chosen_length=[5], rejected_length=[2])
    >>> Plus(1.0, LengthGap(0.5))(s).tolist()
    [2.5]
    """

    first: Margin
    second: Margin

    @property
    def references(self) -> tuple[str, ...]:
        return (*getattr(self.first, "references", ()), *getattr(self.second, "references", ()))

    def __call__(self, scores: Scores) -> Tensor:
        chosen_G, _ = scores.sides(torch.zeros_like(scores.length_N))
        return chosen_G + margin_of(self.first, scores) + margin_of(self.second, scores)
