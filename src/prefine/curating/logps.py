"""Log-probabilities that other policies give to the members, as values: what several references are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefine.slate import Contrast


@dataclass(frozen=True)
class WithLogps:
    """Called with contrasts and, for every name, what ``run.logps`` gave for them: see ``with_logps``."""

    names: tuple[str, ...]

    def __call__(self, contrasts: Any, *rest: Any) -> Iterator[Contrast]:
        *logps, _ = rest  # the random source comes last
        if len(logps) != len(self.names):
            raise ValueError(f"{len(logps)} policies' log-probabilities for {len(self.names)} names")
        for contrast, *arrays in zip(contrasts, *logps, strict=True):
            sums = (tuple(float(tokens.sum(dtype=np.float64)) for tokens in rows) for rows in arrays)
            yield replace(contrast, values={**contrast.values, **dict(zip(self.names, sums, strict=True))})


def with_logps(*names: str) -> WithLogps:
    """Contrasts with the log-probability of every whole response under other policies, as values of these names.

    ``run.curate((pairs, run.logps(a, pairs), run.logps(b, pairs)), with_logps("a", "b"))``. Sums over a response's
    tokens, so each policy may have a tokenizer of its own.

    >>> from prefine.slate import Candidate, Slate, pair
    >>> two = pair(Slate("x", (Candidate("a"), Candidate("b"))), 0, 1)
    >>> rows = [[np.array([-1.0, -0.5]), np.array([-2.0])]]
    >>> [c.values for c in with_logps("second")([two], rows, None)]
    [{'second': (-1.5, -2.0)}]
    """
    return WithLogps(names)
