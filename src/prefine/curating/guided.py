"""Verifier-guided pairs (VerIPO, arXiv 2505.19000): what outcome rewards spoil, put right from the same rollouts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prefine.curating.reading import column, tokens
from prefine.curating.tags import place
from prefine.judging.thoughts import Form, form_of
from prefine.registry import between
from prefine.slate import Candidate, Contrast, Slate, pair

REFLECTION = "\nWait, something is wrong here. Once more from the beginning.\n"
"""What stands between a wrong attempt and a right one."""

WRONG, FLAWED, REFLECTIVE = 1.0, 2.0, 3.0
"""The value "rule" of a pair: which of the rules it came from."""


@dataclass(frozen=True)
class VerifierGuided:
    """See ``verifier_guided``."""

    form: Form
    right: float = 0.9
    repeated: float = 0.5
    reflection: str = REFLECTION

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            accuracy = column(slate, "accuracy")
            right = [i for i, a in accuracy.items() if a >= self.right]
            wrong = [i for i, a in accuracy.items() if a < self.right]
            sound = [i for i in right if self._sound(slate, i) is True]
            flawed = [i for i in right if self._sound(slate, i) is False]
            if not sound:
                continue
            best = max(sound, key=lambda i: (tokens(slate, i), -i))
            if wrong:
                yield pair(slate, best, rng.choice(wrong), rule=WRONG)
            if flawed:
                yield pair(slate, best, rng.choice(flawed), rule=FLAWED)
            in_form = [i for i in wrong if self.form.split(slate.response(i)) is not None]
            if in_form and self.reflection:
                yield self._reflective(slate, rng.choice(in_form), best)

    def _sound(self, slate: Slate, index: int) -> bool | None:
        """Consistent and not repetitive; None where nobody could say whether it is consistent."""
        if slate.column("repetition")[index] > self.repeated:
            return False
        verdict: bool | None = slate.column("consistent")[index]
        return verdict

    def _reflective(self, slate: Slate, wrong: int, right: int) -> Contrast:
        """The wrong attempt, noticed and put right, over the wrong attempt alone."""
        (first, _), (second, answer) = (self.form.split(slate.response(i)) or ("", "") for i in (wrong, right))
        text = self.form.join(f"{first}{self.reflection}{second}", answer)
        longer = slate.with_candidates([Candidate(text, origin={"role": "reflective"})])
        return pair(longer, len(slate), wrong, rule=REFLECTIVE)


@dataclass(frozen=True)
class Unsolved:
    """See ``unsolved``."""

    keep: float = 0.2
    by: str = "accuracy"

    def __call__(self, slates: Iterable[Slate]) -> Iterator[Slate]:
        for slate in slates:
            known = column(slate, self.by).values()
            if not known or min(known) < 1 or place(slate) < self.keep:
                yield Slate(slate.prompt, meta=slate.meta)


def verifier_guided(
    form: Form | str = "tags", right: float = 0.9, repeated: float = 0.5, reflection: str = REFLECTION
) -> VerifierGuided:
    """Up to three pairs a prompt, from columns "accuracy", "consistent" and "repetition".

    Sound: right (accuracy of at least ``right``), its answer follows from its thought, and at most a share
    ``repeated`` of it is repeated. The longest sound response is chosen over

        1  a wrong one;
        2  a right one that is inconsistent or repetitive;

    and 3: a wrong attempt, ``reflection``, then the sound thought and answer, over the wrong attempt alone ("" leaves
    these out). Without a sound response there is no pair. Where the reader could not say whether a right response is
    consistent it is neither chosen nor rejected.
    """
    between(0, 1.0000001, right=right, repeated=repeated)
    return VerifierGuided(form_of(form) if isinstance(form, str) else form, right, repeated, reflection)


def unsolved(keep: float = 0.2, by: str = "accuracy") -> Unsolved:
    """The bare prompts that were not always answered right, and a share ``keep`` of those that were.

    >>> from prefine.slate import scores
    >>> slates = [Slate(str(k), (Candidate("a"),)).with_feedback("accuracy", scores([a])) for k, a in enumerate((0, 1))]
    >>> [slate.prompt for slate in unsolved(0.0)(slates)]
    ['0']
    """
    between(0, 1.0000001, keep=keep)
    return Unsolved(keep, by)
