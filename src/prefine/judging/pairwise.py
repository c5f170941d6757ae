"""Pairwise reward models: two responses read together as one text, whose reward is the logit of "the first is better".

Such a model is fitted on pairs shown both ways round (``curating.both_ways``), good where the chosen one comes first:

    lessons = run.curate(pairs, curating.both_ways())
    model = run.fit(policy, lessons, objective=objectives.binary_cross_entropy())
    judged = run.judge(slates, judging.pairwise_reward(model))

``judging.dropout`` asks the same model several times, for how sure it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

from prefine.errors import InputError
from prefine.judging.compared import sigmoid
from prefine.judging.dropout import BOTH, compared
from prefine.judging.models import Loadable, live
from prefine.slate import Feedback, Slate, table

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class PairwiseReward:
    """P[i][j] = ½ [ sigmoid(r(i, j)) + 1 - sigmoid(r(j, i)) ]: both orders are read, so a liking for the first place
    cancels."""

    compares: ClassVar[bool] = True
    model: Loadable
    template: str = BOTH
    name: str = "preference"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        model = live(self.model)
        if not hasattr(model, "reward"):
            raise InputError(
                f"a policy of kind {getattr(model, 'kind', '?')!r} gives no rewards",
                remedy="fit a reward model on pairs shown both ways round, or use the judge choice:DIR, which reads "
                "the letters A and B",
            )
        rewards = model.reward([compared(slate, self.template) for slate in slates])
        return [{self.name: table(_table(len(slate), iter(r)))} for slate, r in zip(slates, rewards, strict=True)]


def _table(K: int, rewards: Iterator[float]) -> list[list[float]]:
    p = {couple: sigmoid(float(next(rewards))) for couple in permutations(range(K), 2)}
    return [[0.5 if i == j else (p[i, j] + 1 - p[j, i]) / 2 for j in range(K)] for i in range(K)]


def pairwise_reward(handle: Loadable, template: str = BOTH, name: str = "preference") -> PairwiseReward:
    """The judge that a reward model of two responses at once is."""
    return PairwiseReward(handle, template, name)
