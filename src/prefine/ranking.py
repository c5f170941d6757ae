"""How often a reward ranks a pair right, in distribution and out of it, with an interval.

Any judge is a reward here: a reward model, a policy's implicit reward, a language judge. Its accuracy is the share of
pairs whose chosen response it scores higher, an exact tie being half; pairs it abstains on are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from prefine.curating.tags import compact_slates
from prefine.judging.base import Judge

if TYPE_CHECKING:
    from prefine.artifacts import Contrasts, PolicyHandle
    from prefine.run import Run

Z = 1.96
"""Two-sided 95%."""

APART = 0.05
"""Accuracies on the training pairs that are further apart than this make a comparison void."""


@dataclass(frozen=True)
class Accuracy:
    """A share of pairs, its 95% interval, how many pairs it is of, and on how many nothing was said."""

    value: float
    low: float
    high: float
    pairs: int
    abstained: int = 0

    @property
    def words(self) -> str:
        """As people read it.

        >>> Accuracy(0.75, 0.7, 0.8, 100).words
        '0.750 (0.700 to 0.800)'
        """
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def figures(self, name: str) -> dict[str, float]:
        """For the report: the share under the name itself, and what belongs to it."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_pairs": self.pairs}


def accuracy(reward_G2: np.ndarray) -> Accuracy:
    """Of (G, 2) rewards, the chosen response's first; NaN: none was given.

    >>> found = accuracy(np.array([[1.0, 0.0], [2.0, 3.0], [1.0, 1.0], [1.0, np.nan]]))
    >>> found.value, found.pairs, found.abstained
    (0.5, 3, 1)
    """
    known = reward_G2[np.isfinite(reward_G2).all(1)]
    if not len(known):
        return Accuracy(math.nan, 0.0, 1.0, 0, len(reward_G2))
    gap = known[:, 0] - known[:, 1]
    share = float(((gap > 0) + 0.5 * (gap == 0)).mean())
    return Accuracy(share, *interval(share, len(gap)), len(gap), len(reward_G2) - len(gap))


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n: it stays within 0 and 1, and has a width at both ends.

    >>> [round(x, 3) for x in interval(0.5, 100)], [round(x, 3) for x in interval(1.0, 10)]
    ([0.404, 0.596], [0.722, 1.0])
    """
    near = Z**2 / n
    middle, half = share + near / 2, Z * math.sqrt((share * (1 - share) + near / 4) / n)
    return max(0.0, (middle - half) / (1 + near)), min(1.0, (middle + half) / (1 + near))


def rewards(run: Run, judge: Judge, pairs: Contrasts, label: str = "rewards of pairs") -> np.ndarray:
    """(G, 2) what a judge says of the chosen and of the rejected response of every pair; NaN where it abstains."""
    slates = run.slates(compact_slates(pairs), label=label)
    judged = run.judge(slates, judge, role="evaluation", label=label)
    found = [name for name, column in judged[0].feedback.items() if column.kind == "score"]
    column = "score" if "score" in found else found[0]
    return np.array([[math.nan if v is None else v for v in slate.column(column)] for slate in judged], dtype=float)


def best(
    run: Run, models: Sequence[PolicyHandle], judge: Callable[[PolicyHandle], Judge], pairs: Contrasts
) -> PolicyHandle:
    """The model whose reward ranks most of these pairs right; the first among equals."""
    if len(models) == 1:
        return models[0]
    return max(models, key=lambda model: accuracy(rewards(run, judge(model), pairs, "choose by accuracy")).value)


def compared(
    run: Run, judges: Mapping[str, Judge], at_home: Mapping[str, Contrasts], away: Mapping[str, Contrasts]
) -> dict[str, float]:
    """Accuracies of rewards by setting, and how far the first is above the second: noted, said and given back.

    ``at_home`` holds "train" and settings like it, ``away`` the shifted ones. NAME_SETTING with _low, _high and _pairs;
    gap_SETTING; gap_away_mean and gap_away_max; "void" is 1 where the two do not fit the training pairs alike.
    """
    settings = {**at_home, **away}
    found = {
        name: {where: accuracy(rewards(run, judge, pairs, f"{name} on {where}")) for where, pairs in settings.items()}
        for name, judge in judges.items()
    }
    figures: dict[str, float] = {}
    for name, of in found.items():
        for setting, measured in of.items():
            figures |= measured.figures(f"{name}_{setting}")
    first, second = list(found.values())[:2]
    gaps = {setting: first[setting].value - second[setting].value for setting in settings}
    figures |= {f"gap_{setting}": gap for setting, gap in gaps.items()}
    if away:
        figures |= {"gap_away_mean": fmean(gaps[s] for s in away), "gap_away_max": max(gaps[s] for s in away)}
    figures["void"] = float(abs(gaps["train"]) > APART)
    run.note(**figures)
    for setting in settings:
        run.progress.say(f"{setting}: {', '.join(f'{name} {of[setting].words}' for name, of in found.items())}")
    if figures["void"]:
        run.progress.say(f"void: on the pairs they were fitted on the two are {abs(gaps['train']):.2f} apart")
    return figures
