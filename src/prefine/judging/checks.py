"""Judges without a model: a check against the gold answer, votes on answers, length and key words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefine.judging.answers import After, Extract, boxed, canonical, final_answer, last_number, same
from prefine.slate import Feedback, Slate, scores, texts

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class Verifier:
    """+1 right, 0 wrong but well-formed, -1 without a final answer (arXiv 2503.12854).

    The gold answer is the prompt's ``meta[gold]``; without one the judge abstains. An empty answer is wrong.
    """

    extract: Extract = boxed
    equal: Callable[[str, str], bool] = same
    gold: str = "answer"
    name: str = "verified"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self._verdict(s, i) for i in range(len(s))])} for s in slates]

    def _verdict(self, slate: Slate, index: int) -> float | None:
        gold = slate.meta.get(self.gold)
        if gold is None:
            return None
        answer = self.extract(slate.response(index))
        if answer is None:
            return -1.0
        return float(bool(answer) and self.equal(answer, str(gold)))


@dataclass(frozen=True)
class Votes:
    """How many of a slate's responses have the same final answer (self-consistency, arXiv 2411.04109).

    Columns: "votes", V(y), 0 for a response without an answer; "answer", in the form that is compared. With
    ``voters`` only the responses of that role (``origin``) vote, and the others are measured by their votes.
    """

    extract: Extract = final_answer
    canonical: Callable[[str], str] = canonical
    voters: str | None = None
    name: str = "votes"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [self._columns(slate) for slate in slates]

    def _columns(self, slate: Slate) -> Columns:
        leaves = set(slate.leaves())
        found: list[str | None] = [None] * len(slate)
        for i in leaves:
            answer = self.extract(slate.response(i))
            found[i] = self.canonical(answer) if answer else None
        votes: Counter[str | None] = Counter(
            answer
            for answer, candidate in zip(found, slate.candidates, strict=True)
            if answer is not None and self.voters in (None, candidate.origin.get("role", "current"))
        )
        counted = [votes[a] if i in leaves else None for i, a in enumerate(found)]
        return {self.name: scores(counted), "answer": texts(found)}


@dataclass(frozen=True)
class Length:
    """Length of the response: "characters", "words" or "tokens". ``factor=-1`` likes short ones."""

    unit: str = "characters"
    factor: float = 1.0
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        measure = LENGTHS[self.unit]
        return [{self.name: scores([self.factor * measure(s, i) for i in range(len(s))])} for s in slates]


def _tokens(slate: Slate, index: int) -> int:
    parts = [slate.candidates[i] for i in slate.path(index)]
    return sum(len(c.text.split()) if c.tokens is None else len(c.tokens) for c in parts)


LENGTHS: Mapping[str, Callable[[Slate, int], int]] = {
    "characters": lambda slate, i: len(slate.response(i)),
    "words": lambda slate, i: len(slate.response(i).split()),
    "tokens": _tokens,
}


@dataclass(frozen=True)
class Keywords:
    """How many of the wanted words a response has, less how many of the unwanted, each counted once."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self._count(s.response(i)) for i in range(len(s))])} for s in slates]

    def _count(self, text: str) -> int:
        words = set(re.findall(r"\w+", text.lower()))
        good = sum(w.lower() in words for w in self.wanted)
        return good - sum(w.lower() in words for w in self.unwanted)


EXTRACTS: Mapping[str, Extract] = {"auto": final_answer, "boxed": boxed, "number": last_number}


def extract_by(answer: str = "auto") -> Extract:
    """How final answers are found: "auto" (the usual marks), "boxed", "number", or any marker before them."""
    return EXTRACTS.get(answer) or After(answer)


def votes(answer: str = "auto", voters: str | None = None, name: str = "votes") -> Votes:
    """The judge that counts how many responses agree."""
    return Votes(extract_by(answer), voters=voters, name=name)


def verifier(answer: str = "auto", gold: str = "answer", name: str = "verified") -> Verifier:
    """The judge that compares with the gold answer."""
    return Verifier(extract_by(answer), gold=gold, name=name)
