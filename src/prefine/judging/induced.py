"""A score from a judge that only compares: the log-odds of beating one baseline response.

arXiv 2309.06657: r(x, y) = logit rho(y beats y_b). One comparison a candidate, where a table needs K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefine.judging.base import Judge
from prefine.judging.compared import Columns, only_table
from prefine.slate import Slate, scores


@dataclass(frozen=True)
class Induced:
    """logit P(y beats y_b), y_b the slate's last candidate, which gets no score itself.

    Probabilities are kept ``eps`` away from 0 and 1.

    >>> from prefine.judging.compared import BradleyTerryTable
    >>> from prefine.judging.checks import Length
    >>> from prefine.slate import Candidate
    >>> slate = Slate("hi", (Candidate("abc"), Candidate("abcd"), Candidate("ab")))
    >>> [r and round(r, 6) for r in Induced(BradleyTerryTable(Length("characters")))([slate])[0]["reward"].values]
    [1.0, 2.0, None]
    """

    judge: Judge
    name: str = "reward"
    eps: float = 1e-6

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        matches = [Slate(s.prompt, (c, s.candidates[-1]), meta=s.meta) for s in slates for c in s.candidates[:-1]]
        odds = iter([self._logit(only_table(columns)[0][1]) for columns in self.judge(matches)])
        return [{self.name: scores([*(next(odds) for _ in slate.candidates[:-1]), None])} for slate in slates]

    def _logit(self, p: float | None) -> float | None:
        if p is None:
            return None
        p = min(max(p, self.eps), 1 - self.eps)
        return math.log(p / (1 - p))


def induced(judge: Judge, name: str = "reward", eps: float = 1e-6) -> Induced:
    """The pointwise score that a pairwise judge induces."""
    return Induced(judge, name, eps)
