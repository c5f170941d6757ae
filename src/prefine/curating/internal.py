"""Unlabelled pairs with the questions that a model which is its own judge would be asked about them, as lessons."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prefine.errors import InputError
from prefine.registry import at_least
from prefine.slate import CHOSEN, OTHER, REJECTED, Candidate, Contrast, Prompt, Slate, group, point, prompt_text

WHICH = """Question:
{prompt}

Response A:
{first}

Response B:
{second}

Which response is better? Answer with one letter, A or B.
"""
"""As ``judging.choices`` asks."""

LETTERS = ("A", "B")


def asked_which(template: str, slate: Slate, first: int, second: int) -> Prompt:
    """The question about two responses, one shown first; a user's message where the prompt is a conversation."""
    import re

    said = {"prompt": prompt_text(slate.prompt), "first": slate.response(first), "second": slate.response(second)}
    text = re.sub(r"\{(prompt|first|second)\}", lambda match: said[match[1]], template)
    return text if isinstance(slate.prompt, str) else ({"role": "user", "content": text},)


@dataclass(frozen=True)
class InternalPairs:
    """See ``internal_pairs``."""

    templates: tuple[str, ...]
    most: int | None

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            order = list(slate.leaves())
            rng.shuffle(order)
            couples = zip(order[::2], order[1::2], strict=False)
            unlike = [(a, b) for a, b in couples if slate.response(a) != slate.response(b)]
            yield from (self._with_verdicts(slate, a, b) for a, b in unlike[: self.most])

    def _with_verdicts(self, slate: Slate, a: int, b: int) -> Contrast:
        pair = [
            slate.candidates[slate.path(i)[0]] if len(slate.path(i)) == 1 else Candidate(slate.response(i))
            for i in (a, b)
        ]
        members, marks = list(pair), [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]
        for judge, template in enumerate(self.templates, 1):
            for order, (first, second) in enumerate(((a, b), (b, a))):
                question = asked_which(template, slate, first, second)
                for letter, shown in zip(LETTERS, (first, second), strict=True):
                    # "length": the letter as it stands, without an end token after it
                    members.append(Candidate(letter, stop="length", prompt=question, origin={"role": "verdict"}))
                    marks.append((float(judge), float(order), 1.0 if shown == a else -1.0))
        judges, orders, says = zip(*marks, strict=True)
        wide = Slate(slate.prompt, tuple(members), meta=slate.meta)
        return group(wide, range(len(members)), [OTHER] * len(members), judge=judges, order=orders, says=says)


@dataclass(frozen=True)
class VerdictLessons:
    """Pairs that are labelled, as verdicts to imitate: each in both orders."""

    template: str = WHICH

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in pairs:
            small = contrast.compact()
            sides = [small.members[small.roles.index(role)] for role in (CHOSEN, REJECTED)]
            for letter, (first, second) in zip(LETTERS, (sides, sides[::-1]), strict=True):
                question = asked_which(self.template, small.slate, first, second)
                yield point(Slate(question, (Candidate(letter, stop="length"),), meta=small.slate.meta), 0, True)


def internal_pairs(templates: str | Sequence[str] = WHICH, most: int | None = None) -> InternalPairs:
    """A prompt's responses in disjoint random pairs, unlabelled, each with both verdicts on every question about it.

    templates: questions with {prompt}, {first} and {second}, answered A or B; each is asked in both orders. most: pairs
    a prompt. Two responses with the same text are no pair. For ``objectives.scir``.
    """
    asked = (templates,) if isinstance(templates, str) else tuple(templates)
    missing = [place for text in asked for place in ("{first}", "{second}") if place not in text]
    if missing or not asked:
        raise InputError("a question must show both responses", remedy="write {prompt}, {first} and {second} in it")
    at_least(1, **({} if most is None else {"most": most}))
    return InternalPairs(asked, most)


def verdict_lessons(template: str = WHICH) -> VerdictLessons:
    """Labelled pairs as questions with the right letter, in both orders: how a model learns to be asked."""
    return VerdictLessons(template)
