"""Pairs by what their rows are tagged with: where the prompt is from, and who wrote the responses.

What a method has learnt from one domain and one generator is measured on others: other prompts (prompt shift), or the
same kind of prompts with responses from elsewhere (response shift).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, prompt_text

Cell = tuple[str | None, str | None]
"""(domain, generator)."""

INSIDE = "in_distribution"


def said(slate: Slate, column: str) -> str | None:
    """What a row says in a column that belongs to its prompt."""
    value = slate.meta.get(column, slate.meta.get("extra", {}).get(column))
    return None if value is None else str(value)


def cells(contrasts: Iterable[Contrast], domain: str, generator: str) -> Counter[Cell]:
    """How many pairs there are of every domain and generator; an InputError where no row says either."""
    found: Counter[Cell] = Counter((said(c.slate, domain), said(c.slate, generator)) for c in contrasts)
    if set(found) <= {(None, None)}:
        raise InputError(
            f"no row says which {domain!r} or {generator!r} it is from, so there is no shift to measure",
            remedy=f'give rows with "{domain}": "name" (of the prompt) or "{generator}": "name" (of the responses), '
            "or name other columns",
        )
    return found


@dataclass(frozen=True)
class Shifts:
    """Which setting a pair belongs to, seen from the cell that was trained on."""

    trained: Cell
    domain: str = "domain"
    generator: str = "generator"

    def of(self, cell: Cell) -> str:
        """In distribution, or the shift: another domain comes before another generator.

        >>> shifts = Shifts(("chat", "small"))
        >>> shifts.of(("chat", "small")), shifts.of(("maths", "large")), shifts.of(("chat", "large"))
        ('in_distribution', 'prompt_shift_maths', 'response_shift_large')
        """
        (own_domain, own_generator), (domain, generator) = self.trained, cell
        if domain != own_domain:
            return f"prompt_shift_{domain}"
        return INSIDE if generator == own_generator else f"response_shift_{generator}"

    def cell(self, slate: Slate) -> Cell:
        """The cell that a row is from."""
        return said(slate, self.domain), said(slate, self.generator)

    def part(self, setting: str, low: float = 0.0, high: float = 1.0) -> OfSetting:
        """A curator: the pairs of one setting whose prompts lie in a share of all, disjoint for disjoint shares."""
        return OfSetting(self, setting, low, high)


@dataclass(frozen=True)
class OfSetting:
    """See ``Shifts.part``. A prompt's place is drawn from its own text, so all its pairs are on one side."""

    shifts: Shifts
    setting: str
    low: float
    high: float

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        here, kept = 0, 0
        for contrast in rows:
            if self.shifts.of(self.shifts.cell(contrast.slate)) == self.setting:
                here += 1
                if self.low <= place(contrast.slate) < self.high:
                    kept += 1
                    yield contrast
        if not kept:
            share = f"the share {self.low:.2g} to {self.high:.2g} of its prompts"
            raise InputError(
                f"of {here} pairs of the setting {self.setting} none is in {share}",
                remedy="bring more pairs of that kind, or hold out a larger share",
            )


def place(slate: Slate) -> float:
    """Where a prompt lies between 0 and 1: the same wherever and whenever it is asked."""
    return random.Random(f"{slate.meta.get('id', '')} {prompt_text(slate.prompt)}").random()


def compact_slates(contrasts: Iterable[Contrast]) -> Iterator[Slate]:
    """Every pair as a slate of its own: chosen, then rejected, without feedback."""
    for contrast in contrasts:
        small = contrast.compact()
        best_first = sorted(range(len(contrast.members)), key=lambda m: -contrast.roles[m])
        taken = [_alone(small, m) for m in best_first]
        yield Slate(small.slate.prompt, tuple(taken), meta=small.slate.meta)


def _alone(contrast: Contrast, member: int) -> Candidate:
    slate, index = contrast.slate, contrast.members[member]
    if len(slate.path(index)) > 1:
        return Candidate(
            slate.response(index), stop=slate.candidates[index].stop, prompt=slate.candidates[index].prompt
        )
    return slate.candidates[index]
