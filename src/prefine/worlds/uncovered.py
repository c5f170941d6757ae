"""A bandit whose data never show one response, and a policy that cannot help moving it. For claims about coverage.

Three responses with features A (1, 0), B (0, 1), C (2, -1) and a log-linear policy; C starts at 6%. Pairs compare
only A and B. What raises A over B raises C twice as much: a loss that sees only the pairs runs away to C.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate, scores

PROMPT, RESPONSES = "choose", ("A", "B", "C")
FEATURES = ((1.0, 0.0), (0.0, 1.0), (2.0, -1.0))


@dataclass(frozen=True)
class Uncovered:
    """The share of labels that say A, and where C's logit starts.

    >>> [round(p, 3) for p in Uncovered().start().probabilities("choose").tolist()]
    [0.468, 0.468, 0.063]
    """

    preferred: float = 1.0
    offset: float = -2.0

    def start(self) -> Tabular:
        return Tabular([PROMPT], RESPONSES, [[0.0, 0.0, self.offset]], features_PAD=np.asarray([FEATURES]))

    def base(self, folder: Path) -> Path:
        """Directory of the starting policy."""
        path = folder / f"uncovered{self.offset:g}"
        if not path.exists():
            beside = path.with_name(path.name + ".partial")
            shutil.rmtree(beside, ignore_errors=True)
            self.start().save(beside)
            beside.rename(path)
        return path

    def labelled(self, n: int) -> list[Slate]:
        """n slates of A and B with a column "score"; the share of A's wins is exact, spread evenly."""
        wins = np.floor(np.arange(1, n + 1) * self.preferred + 1e-9) > np.floor(np.arange(n) * self.preferred + 1e-9)
        both = (Candidate("A"), Candidate("B"))
        return [
            Slate(PROMPT, both, meta={"id": f"{PROMPT}-{i}"}).with_feedback("score", scores([float(w), float(not w)]))
            for i, w in enumerate(wins)
        ]
