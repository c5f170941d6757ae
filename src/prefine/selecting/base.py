"""What a selector is: which rows are worth a label, decided before anybody is asked for one.

A selector takes slates or contrasts and gives some of them, perhaps with fewer candidates (one pair of the four that
were sampled). What it must know of the models (margins, entropies, features) it reads from columns, and it says how
they come about: ``view(policy, reference)`` is the judge that adds them. ``chosen`` puts the two together.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefine.artifacts import PolicyHandle, Rows
from prefine.catalogue import INPUTS
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.registry import positive
from prefine.slate import Contrast, Feedback, Slate, slate_of

if TYPE_CHECKING:
    from prefine.run import Run

Row = Slate | Contrast
R = TypeVar("R", bound=Rows[Any])


class Selector(Protocol):
    """Rows and a random source in (already seeded; use nothing else), some of the rows out, in their order.

    Two methods are optional. ``view(policy, reference)``: the judge whose columns it reads. ``unseen()``: the selector
    that takes its place where the policy still is its reference, so that all margins are zero.
    """

    def __call__(self, rows: Iterable[Any], rng: random.Random, /) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Budget:
    """How many rows: a number of them, or a share.

    >>> Budget.read("25%").of(10), Budget.read(0.5).of(10), Budget.read(3).of(10), Budget.read(30).of(10)
    (3, 5, 3, 10)
    """

    amount: float
    share: bool

    @staticmethod
    def read(given: float | str | Budget) -> Budget:
        """ "50%" and 0.5 are shares, whole numbers from 1 on are rows."""
        if isinstance(given, Budget):
            return given
        text = re.fullmatch(r"\s*([\d.]+)\s*(%?)\s*", str(given))
        try:
            amount = float(text[1]) / (100 if text[2] else 1) if text else 0.0
        except ValueError:
            amount = 0.0
        share = text is not None and (bool(text[2]) or amount < 1)
        if text is None or amount <= 0 or (share and amount > 1) or (not share and amount != int(amount)):
            chained = "; for one selector after the other write first(budget=50%):second" if ":" in str(given) else ""
            raise InputError(
                f"budget={given!r} is no budget", remedy=f"give a share such as 50%, or a number of rows{chained}"
            )
        return Budget(amount, share)

    def of(self, n: int) -> int:
        """Rows of n: halves are rounded up, and of something something is kept."""
        wanted = int(self.amount * n + 0.5) if self.share else int(self.amount)
        return min(n, max(1, wanted))


def split(total: int, parts: Sequence[float]) -> list[int]:
    """A budget divided in these proportions, exactly: rest by largest remainder.

    >>> split(100, (3, 2, 1)), split(10, (1, 1, 1))
    ([50, 33, 17], [4, 3, 3])
    """
    for part in parts:
        positive(part=part)
    exact = [total * part / sum(parts) for part in parts]
    found = [int(x) for x in exact]
    for i in sorted(range(len(parts)), key=lambda i: (found[i] - exact[i], i))[: total - sum(found)]:
        found[i] += 1
    return found


# --- rows -----------------------------------------------------------------------------------------------------


def pairs_of(row: Row) -> list[tuple[int, int]]:
    """The pairs that could be labelled: a contrast's own, of a slate any two finished responses that differ.

    Two responses with one text have a margin of zero and nothing to choose between: they would be the smallest margin
    of all and eat the budget.
    """
    if isinstance(row, Contrast):
        sides = dict(zip(row.roles, row.members, strict=True))
        first, second = (sides[1], sides[-1]) if {1, -1} <= sides.keys() else (row.members[0], row.members[-1])
        return [(first, second)] if first != second else []
    return [(i, j) for i, j in combinations(row.leaves(), 2) if row.response(i) != row.response(j)]


def with_pair(row: Row, pair: tuple[int, int]) -> Row:
    """The row with these two responses alone; a contrast as it is."""
    return row if isinstance(row, Contrast) or len(row) == 2 else row.take(pair)


def everything(rows: Iterable[Any], rng: random.Random) -> Iterable[Any]:
    """All rows: nobody is spared."""
    return rows


def differing(rows: Iterable[Any], rng: random.Random) -> Iterator[Any]:
    """Rows with at least two responses that differ: of the others there is nothing to ask."""
    return (row for row in rows if pairs_of(row))


@dataclass(frozen=True)
class Part:
    """The i-th of ``of`` disjoint parts: a super-batch of a stream."""

    i: int
    of: int

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> Iterator[Any]:
        return (row for at, row in enumerate(rows) if at % self.of == self.i)


@dataclass(frozen=True)
class Remaining:
    """The rows of the first artifact that are not in the others: what of a pool is still to be had."""

    def __call__(self, rows: Iterable[Any], *others: Any) -> Iterator[Any]:
        *taken, _ = others
        gone = {_identity(row) for part in taken for row in part}
        return (row for row in rows if _identity(row) not in gone)


def _identity(row: Row) -> tuple[str, ...]:
    """The prompt's id and the responses, whatever their order and whatever was said of them."""
    slate = slate_of(row)
    return (slate.id, *sorted(slate.response(i) for i in slate.leaves()))


def need(what: str, **inputs: Any) -> None:
    """An InputError where one of the inputs is missing that ``what`` (an option and its value) asks for."""
    for name, value in inputs.items():
        if value is None:
            raise InputError(f"{what} needs {name}", remedy=f"give {INPUTS[name]}; or choose the other")


# --- what selectors see of the models -------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """Several judges at once."""

    judges: tuple[Judge, ...]

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        found = [judge(slates) for judge in self.judges]
        return [{name: column for columns in row for name, column in columns.items()} for row in zip(*found)]


def view_of(selector: Any, policy: Any, reference: Any) -> Judge | None:
    """The judge whose columns the selector reads, made of these models; None where it needs none."""
    make = getattr(selector, "view", None)
    return None if make is None else make(policy, reference)


def with_budget(selector: Any, budget: float | str | Budget) -> Any:
    """The same selector with another budget."""
    return replace(selector, budget=Budget.read(budget))


def unseen(selector: Any) -> Any:
    """The selector to use while the policy is its reference: itself, unless it lives from the difference."""
    instead = getattr(selector, "unseen", None)
    return selector if instead is None else instead()


def chosen(run: Run, rows: R, selector: Selector, policy: PolicyHandle, reference: PolicyHandle) -> R:
    """``run.select`` with what the selector has to see of the models, which asks nobody for a label.

    ``reference`` is what the policy was trained against; as long as the two are one, a selector that lives from their
    difference is replaced by one that does without (random choice).
    """
    if selector is everything:
        return rows
    selector = unseen(selector) if policy.key == reference.key else selector
    view = view_of(selector, policy, reference)
    seen = rows if view is None else run.judge(rows, view, role="view", label="what the policy itself thinks of them")
    return run.select(seen, selector)


@dataclass(frozen=True)
class Then:
    """One selector, and another among what it kept.

    Budgets that are shares multiply: a quarter of the prompts, then half of those.
    """

    first: Selector
    second: Selector

    def view(self, policy: Any, reference: Any) -> Judge | None:
        views = [view for part in (self.first, self.second) if (view := view_of(part, policy, reference)) is not None]
        return Views(tuple(views)) if views else None

    def unseen(self) -> Then:
        return Then(unseen(self.first), unseen(self.second))

    def __call__(self, rows: Iterable[Any], rng: random.Random) -> Iterable[Any]:
        return self.second(self.first(rows, rng), rng)
