"""Pairs of one dimension out of pairs of several."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from prefine.errors import InputError
from prefine.slate import CHOSEN, REJECTED, Contrast


@dataclass(frozen=True)
class OfDimension:
    """The pairs of a dimension, from contrasts: see ``of_dimension``."""

    name: str

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in contrasts:
            said = dimension_of(contrast)
            if said == self.name:
                yield contrast
            elif said is None:
                ordered = self._ordered(contrast)
                if ordered is not None:
                    yield ordered

    def _ordered(self, contrast: Contrast) -> Contrast | None:
        column = contrast.slate.feedback.get(self.name)
        if column is None or len(contrast.members) != 2:
            return None
        first, second = (column.values[i] for i in contrast.members)
        if first is None or second is None or first == second:
            return None
        members = contrast.members if first > second else contrast.members[::-1]
        plain = {k: v for k, v in contrast.values.items() if not isinstance(v, tuple)}
        return replace(contrast, members=members, roles=(CHOSEN, REJECTED), values=plain)


def of_dimension(name: str) -> OfDimension:
    """The pairs of one dimension (arXiv 2405.12739 and others align to several in turn).

    A pair whose column "dimension" has this name, as it is; or, where pairs have no such column, both responses in the
    order of the score column of this name (the same two may be ordered otherwise in another dimension; ties are left
    out). In a file of pairs: {"chosen": ..., "rejected": ..., "dimension": "harmless"}, or "chosen_harmless" and
    "rejected_harmless" with numbers.
    """
    return OfDimension(name)


def dimension_of(contrast: Contrast) -> str | None:
    """What a pair says of itself."""
    meta = contrast.slate.meta
    said = meta.get("dimension", meta.get("extra", {}).get("dimension"))
    return None if said is None else str(said)


def dimensions_in(contrasts: Iterable[Contrast]) -> list[str]:
    """The dimensions that some pairs have, by column or by score, in the order they come."""
    found: dict[str, None] = {}
    for contrast in contrasts:
        said = dimension_of(contrast)
        scores = [n for n, f in contrast.slate.feedback.items() if f.kind == "score"]
        found |= dict.fromkeys(scores if said is None else [said])
    return list(found)


def check_dimensions(contrasts: Iterable[Contrast], names: Sequence[str]) -> None:
    """An InputError where a dimension asked for has no pair among these."""
    there = dimensions_in(contrasts)
    lacking = [name for name in names if name not in there]
    if lacking:
        raise InputError(
            f"these pairs have no dimension {lacking[0]!r} (there: {', '.join(there) or 'none'})",
            remedy='give every pair a "dimension", or numbers for both responses as chosen_NAME and rejected_NAME, and '
            "name the dimensions in the order in which they are to be learnt",
        )
