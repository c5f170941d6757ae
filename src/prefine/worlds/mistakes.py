"""Pairs written from the arithmetic world's problems: the worked solution against one with a known mistake."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from prefine.slate import Candidate, Contrast, Slate, pair


def wrong_digit(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The worked solution against itself with another digit as the result of one step."""
    for slate in slates:
        right = solution(slate)
        if places := _results(right):
            at = rng.choice(places)
            other = rng.choice([d for d in "0123456789" if d != right[at]])
            yield _pair(slate, right, right[:at] + other + right[at + 1 :])


def wrong_solution(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The worked solution against that of another problem with another answer, as many pairs as ``wrong_digit``."""
    rows = list(slates)
    for slate in rows:
        if _results(right := solution(slate)):
            other = rng.choice([s for s in rows if s.meta["answer"] != slate.meta["answer"]])
            yield _pair(slate, right, solution(other))


def solution(slate: Slate) -> str:
    """The reference solution of a problem."""
    return "\n".join([*slate.meta["steps"], f"#### {slate.meta['answer']}"])


def _results(solution: str) -> Sequence[int]:
    """Where the results of steps stand, those of one digit."""
    return [i + 1 for i, sign in enumerate(solution) if sign == "=" and solution[i + 2 : i + 3] == "\n"]


def _pair(slate: Slate, right: str, wrong: str) -> Contrast:
    return pair(Slate(slate.prompt, (Candidate(right), Candidate(wrong)), meta=slate.meta), 0, 1)
