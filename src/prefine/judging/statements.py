"""Statements that an answer must make, and must not contradict (OLAPH, arXiv 2405.12701).

    CP = 100 * #{must-have statements that the answer entails} / #must-have
    HL = 100 * #{must-have and nice-to-have statements that it contradicts} / #all statements
    factuality = CP - HL                                              (a share of no statements is 0)

Whether a text entails or contradicts a statement is said by a ``Verdict``: +1, -1, or 0 neither; None where it cannot
be told, and then the answer is not scored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefine.judging.language import YesProbability
from prefine.judging.overlap import sentences_of, words_of
from prefine.judging.referenced import in_row
from prefine.slate import Candidate, Feedback, Slate, scores

Columns = Mapping[str, Feedback]
Verdict = Callable[[Sequence[tuple[str, str]]], Sequence[int | None]]
"""(text, statement) pairs -> +1 entailed, -1 contradicted, 0 neither, None unknown."""


# -- verdicts


@dataclass(frozen=True)
class Frames:
    """Word by word, for worlds and forms: a sentence that begins as the statement does, in so many words, states it
    when it goes on alike, and contradicts it when it does not. Exact where every kind of statement has its own
    beginning.

    >>> Frames()([(text, "Use it daily.") for text in ("Use it daily. It helps.", "Use it weekly.", "No.")])
    [1, -1, 0]
    """

    words: int = 2

    def __call__(self, asked: Sequence[tuple[str, str]]) -> list[int | None]:
        return [self._verdict(*each) for each in asked]

    def _verdict(self, text: str, statement: str) -> int:
        wanted = words_of(statement)
        same = [s for s in map(words_of, sentences_of(text)) if s[: self.words] == wanted[: self.words]]
        return -1 if any(s != wanted for s in same) else int(bool(same))


@dataclass(frozen=True)
class Alike:
    """The released code's stand-in for entailment: a cosine of at least ``least`` entails, a lower one contradicts.
    Here it is the cosine of word counts. Silence counts as a contradiction, so HL = 100 - CP where all are must-have.

    >>> Alike()([("It helps with coughs", "helps with coughs"), ("No idea", "helps with coughs")])
    [1, -1]
    """

    least: float = 0.5

    def __call__(self, asked: Sequence[tuple[str, str]]) -> list[int | None]:
        return [1 if cosine(*each) >= self.least else -1 for each in asked]


def cosine(a: str, b: str) -> float:
    """Of the word counts of two texts."""
    x, y = Counter(words_of(a)), Counter(words_of(b))
    norm = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
    return sum(x[w] * y[w] for w in x) / norm if norm else 0.0


ENTAILS = "Text:\n{prompt}\n\nStatement:\n{response}\n\nDoes the text state this or imply it? Answer True or False.\n"
CONTRADICTS = "Text:\n{prompt}\n\nStatement:\n{response}\n\nDoes the text contradict this? Answer True or False.\n"


@dataclass(frozen=True)
class Asked:
    """A model asked twice, whether the text states it and whether it contradicts it: the likelier True above 1/2.

    Read off the probabilities of True and False, so that no answer is unreadable."""

    model: Any
    chat: bool | None = None

    def __call__(self, asked: Sequence[tuple[str, str]]) -> list[int | None]:
        slates = [Slate(text, (Candidate(statement),)) for text, statement in asked]
        yes, no = (self._shares(template, slates) for template in (ENTAILS, CONTRADICTS))
        return [0 if max(p, q) <= 0.5 else 1 if p >= q else -1 for p, q in zip(yes, no, strict=True)]

    def _shares(self, template: str, slates: Sequence[Slate]) -> list[float]:
        judge = YesProbability(self.model, template, "True", "False", self.chat)
        return [columns["score"].values[0] for columns in judge(slates)]


# -- the judge


@dataclass(frozen=True)
class Statements:
    """ "factuality" first, then "comprehensiveness" and "hallucination", from the lists in a prompt's row.

    A prompt with neither list is not scored."""

    verdict: Verdict
    must: str = "must_have"
    nice: str = "nice_to_have"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        asked = [(s.response(i), t) for s in slates for i in range(len(s)) for t in self._listed(s)]
        found = iter(self.verdict(asked) if asked else [])
        return [self._columns(s, [[next(found) for _ in self._listed(s)] for _ in range(len(s))]) for s in slates]

    def _listed(self, slate: Slate) -> list[str]:
        return [*map(str, in_row(slate, self.must) or ()), *map(str, in_row(slate, self.nice) or ())]

    def _columns(self, slate: Slate, verdicts: Sequence[Sequence[int | None]]) -> Columns:
        must = len(in_row(slate, self.must) or ())
        known = in_row(slate, self.must) is not None or in_row(slate, self.nice) is not None
        rows = [rates(row, must) if known else None for row in verdicts]
        names = ("factuality", "comprehensiveness", "hallucination")
        return {name: scores([None if row is None else row[k] for row in rows]) for k, name in enumerate(names)}


def rates(verdicts: Sequence[int | None], must: int) -> tuple[float, float, float] | None:
    """(CP - HL, CP, HL) of one answer; the first ``must`` verdicts are those of the must-have statements.

    >>> rates([1, 0, -1], 2), rates([], 0), rates([None], 1)
    ((16.666666666666664, 50.0, 33.333333333333336), (0.0, 0.0, 0.0), None)
    """
    if None in verdicts:
        return None
    entailed, contradicted = sum(v == 1 for v in verdicts[:must]), sum(v == -1 for v in verdicts)
    complete = 100 * entailed / must if must else 0.0
    false = 100 * contradicted / len(verdicts) if verdicts else 0.0
    return complete - false, complete, false
