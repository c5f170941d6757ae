"""Contrasts with what is known of their responses' rewards as values of the members."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.slate import Contrast


@dataclass(frozen=True)
class Scored:
    """Every contrast with the value ``name``: its members' numbers in the column ``by``, or what stands in for them.

    In this order: the column; the contrast's own value "gap", given to the chosen; 1 for the chosen and 0 for the
    others. One kind for the whole data set, the best that all contrasts have: rewards on two scales teach nothing.
    """

    by: str = "score"
    name: str = "score"

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        rows = list(contrasts)
        in_column = all(self.by in c.slate.feedback and None not in self._column(c) for c in rows)
        has_gap = all(isinstance(c.values.get("gap"), float | int) for c in rows)
        for contrast in rows:
            gap = float(contrast.values["gap"]) if has_gap else 1.0  # type: ignore[arg-type]
            stand_in = tuple(gap if role > 0 else 0.0 for role in contrast.roles)
            column = tuple(float(v) for v in self._column(contrast) if v is not None) if in_column else stand_in
            yield replace(contrast, values={**contrast.values, self.name: column})

    def _column(self, contrast: Contrast) -> tuple[float | None, ...]:
        column = contrast.slate.column(self.by)
        return tuple(column[member] for member in contrast.members)


def with_scores(by: str = "score", name: str = "score") -> Scored:
    """Contrasts (already made) with the rewards of their members, from a feedback column where there is one."""
    return Scored(by, name)
