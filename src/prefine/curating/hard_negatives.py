"""Hard problems and hard negatives: what a policy still gets wrong, and the wrong answer it believes in most.

arXiv 2501.06521: a problem is hard while none of the policy's own answers is right; its negative is the wrong answer
that the policy finds likeliest, a token mean. The reference answer is chosen.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from prefine.curating.reading import best, column
from prefine.registry import one_of
from prefine.slate import Contrast, Slate, pair


@dataclass(frozen=True)
class HardNegatives:
    """Called with judged slates and, in the same order, the reference answers: see ``hard_negatives``."""

    by: str = "score"
    likelihood: str = "likelihood"
    solved: float = 1.0
    select: str = "hard"
    at_most: int | None = None

    def __call__(self, slates: Iterable[Slate], answers: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = [
            _against(answer, slate, wrong)
            for slate, answer in zip(slates, answers, strict=True)
            if (wrong := SELECTS[self.select](self, slate, rng)) is not None
        ]
        if self.at_most is not None and len(found) > self.at_most:
            found = [found[i] for i in sorted(rng.sample(range(len(found)), self.at_most))]
        yield from found

    def wrong(self, slate: Slate) -> list[int]:
        """The answers that are not right. Those the judge abstained on are not known to be wrong."""
        return [i for i, value in column(slate, self.by).items() if value < self.solved]

    def is_hard(self, slate: Slate) -> bool:
        """Whether not one answer is right (and at least one was judged)."""
        values = column(slate, self.by)
        return bool(values) and max(values.values()) < self.solved


def _likeliest(rule: HardNegatives, slate: Slate, rng: random.Random) -> int | None:
    """The wrong answer that the policy finds likeliest, on a hard problem."""
    wrong = rule.wrong(slate) if rule.is_hard(slate) else []
    likely = column(slate, rule.likelihood) if wrong else {}
    known = {i: likely[i] for i in wrong if i in likely}  # an empty answer has no likelihood
    return best(known) if known else None


def _any(rule: HardNegatives, slate: Slate, rng: random.Random) -> int | None:
    """A random wrong answer, on any problem."""
    wrong = rule.wrong(slate)
    return rng.choice(wrong) if wrong else None


SELECTS = {"hard": _likeliest, "random": _any}


def _against(answer: Contrast, slate: Slate, wrong: int) -> Contrast:
    """The reference answer over the wrong one."""
    two = (answer.slate.candidates[answer.members[0]], slate.candidates[wrong])
    first, second = (replace(candidate, parent=None) for candidate in two)
    return pair(Slate(slate.prompt, (first, second), meta=slate.meta), 0, 1)


def hard_negatives(
    by: str = "score",
    likelihood: str = "likelihood",
    solved: float = 1.0,
    select: Literal["hard", "random"] = "hard",
    at_most: int | None = None,
) -> HardNegatives:
    """Reference answers against the likeliest wrong one of problems that no answer solves (column ``by`` below
    ``solved``), or for comparison against a random wrong one of any problem; at most so many, picked at random.

    >>> from prefine.slate import Candidate, point, scores
    >>> columns = {"score": scores([0.5, 0.0]), "likelihood": scores([-2, -1])}
    >>> said = Slate("x", (Candidate("a"), Candidate("b")), columns)
    >>> told = point(Slate("x", (Candidate("right"),)), 0, True)
    >>> [c.response(1) for c in hard_negatives()([said], [told], random.Random(0))]
    ['b']
    """
    one_of("select", select, SELECTS)
    return HardNegatives(by, likelihood, solved, select, at_most)
