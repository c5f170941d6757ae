"""Selectors by how sure the model is of a pair: the margin of its implicit reward.

    r(x, y) = log pi(y|x) - log ref(y|x),     m(x, y1, y2) = | r(x, y1) - r(x, y2) |

ref is what pi was trained against; DPO's beta only rescales margins, so the order is without it. Two levels and no
threshold: one pair a prompt, then some of the prompts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from prefine.judging.base import Judge
from prefine.judging.models import implicit_reward
from prefine.registry import one_of
from prefine.selecting.base import Budget, Row, pairs_of, with_pair
from prefine.selecting.ranking import RANKINGS
from prefine.slate import Slate, slate_of

Pick = Callable[[list[float], random.Random], int]
PICKS: Mapping[str, Pick] = {
    "smallest": lambda margins, rng: margins.index(min(margins)),
    "largest": lambda margins, rng: margins.index(max(margins)),
    "random": lambda margins, rng: rng.randrange(len(margins)),
}
"""Which pair of a prompt."""


@dataclass(frozen=True)
class ByMargin:
    """One pair a prompt by its margin, then the rows of the ranking ``keep`` by the margins of their pairs.

    Prompts whose responses are all one text have no pair and are left out. Of a contrast the pair is given. What was
    taken before (further artifacts) is of no matter to it.
    """

    budget: Budget
    keep: str = "smallest"
    pair: str = "smallest"
    by: str = "implicit"

    def view(self, policy: Any, reference: Any) -> Judge | None:
        return implicit_reward(policy, reference, name=self.by) if self._looks and self.by == "implicit" else None

    def unseen(self) -> ByMargin:
        """All margins are zero: any pair of any prompts."""
        return replace(self, keep="random", pair="random") if self.by == "implicit" else self

    @property
    def _looks(self) -> bool:
        return {self.keep, self.pair} != {"random"}

    def __call__(self, rows: Iterable[Any], *more: Any) -> list[Row]:
        rng = more[-1]
        found = [picked for row in rows if (picked := self._picked(row, rng)) is not None]
        kept = RANKINGS[self.keep]([margin for _, margin in found], self.budget.of(len(found)), rng) if found else []
        return [found[i][0] for i in kept]

    def _picked(self, row: Row, rng: random.Random) -> tuple[Row, float | None] | None:
        pairs = pairs_of(row)
        if not pairs:
            return None
        margins = {pair: margin for pair in pairs if (margin := self.margin(row, pair)) is not None}
        if not margins:  # nothing is known of this row: it comes last
            return with_pair(row, rng.choice(pairs)), None
        pair = list(margins)[PICKS[self.pair](list(margins.values()), rng)]
        return with_pair(row, pair), margins[pair]

    def margin(self, row: Row, pair: tuple[int, int]) -> float | None:
        """|r(y1) - r(y2)|; None where the column abstained (and 0 where nobody looks)."""
        if not self._looks:
            return 0.0
        first, second = (slate_of(row).column(self.by)[i] for i in pair)
        return None if first is None or second is None else abs(first - second)


def small_margin(
    budget: float | str | Budget = "50%", pair: str = "smallest", keep: str = "smallest", by: str = "implicit"
) -> ByMargin:
    """The pairs that the policy is least sure of (arXiv 2406.17312): one a prompt, then the smallest margins of all.

    pair, keep: smallest, largest or random; keep also middle and tails. by: a column other than the implicit reward.
    """
    one_of("pair", pair, PICKS)
    one_of("keep", keep, RANKINGS)
    return ByMargin(Budget.read(budget), keep, pair, by)


def certainty(budget: float | str | Budget = "50%", by: str = "implicit") -> ByMargin:
    """The pairs that the policy is surest of (arXiv 2402.08114): where it is sure and wrong, a label teaches most.

    u = 1 - 2 |sigma(r_1 - r_2) - 1/2| falls with |r_1 - r_2|, so the smallest u are the largest margins.
    """
    return small_margin(budget, "largest", "largest", by)


def predictive_uncertainty(difference: float) -> float:
    """u = 1 - 2 |sigma(d) - 1/2| of a difference of rewards: 1 where they are equal, 0 where one is sure.

    >>> predictive_uncertainty(0.0), predictive_uncertainty(2.0) == predictive_uncertainty(-2.0)
    (1.0, True)
    """
    return 2 / (1 + math.exp(min(abs(difference), 700.0)))


def surprises(judged: Iterable[Slate], by: str = "implicit", table: str = "preference") -> dict[str, float]:
    """How often the labels of pairs go against the sign of the policy's margin ("corrected", a coin where there is no
    sign or no side), and the mean of |margin| over all pairs where they do ("missed")."""
    wrong, weight = [], []
    for slate in judged:
        reward, preferred = slate.column(by), slate.column(table)[0][1] - 0.5
        margin = (reward[0] - reward[1]) * preferred
        wrong.append(0.5 if margin == 0 else float(margin < 0))
        weight.append(abs(reward[0] - reward[1]) if margin < 0 else 0.0)
    return {"corrected": fmean(wrong), "missed": fmean(weight)} if wrong else {}
