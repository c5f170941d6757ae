"""The arithmetic world: sums on a ten-hour clock, worked out step by step, with an answer one can check.

A problem is a start and a few signed terms, ``Problem: 7+5-8+6 mod 10``; a solution takes the terms in any
order, one step a line, and ends with the answer behind a marker::

    7+5=2
    2-8=4
    4+6=0
    #### 0

The base policy imitates pupils who slip, who skip the working, who stop without the marker, and who always get
some sums wrong. It also writes new problems when it is shown some (``invent``). Answers are read by a small
parser; nothing a model wrote is ever evaluated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Judge, Scored
from prefine.slate import Feedback, Slate
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import check_split, is_test

SETTINGS = Settings(steps=300, rows=32, width=96, layers=2, seed=7)

MODULUS = 10
MARKER = "####"

Term = tuple[str, int]
"""A sign and a number."""


# ---------------------------------------------------------------- problems


@dataclass(frozen=True)
class Problem:
    """``start`` and the terms to add to it or take from it, modulo ten."""

    start: int
    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        return str(self.start) + "".join(f"{sign}{number}" for sign, number in self.terms) + f" mod {MODULUS}"

    @property
    def prompt(self) -> str:
        return f"Problem: {self.text}\nSolution:\n"

    @property
    def answer(self) -> int:
        value = self.start
        for term in self.terms:
            value = apply(value, term)
        return value

    @staticmethod
    def parse(text: str) -> Problem | None:
        """The problem a text states, None if it states none."""
        match = re.fullmatch(r"\s*(?:Problem:\s*)?(\d)((?:[+-]\d){2,4}) mod 10\s*", text)
        if match is None:
            return None
        return Problem(int(match[1]), tuple((s, int(n)) for s, n in re.findall(r"([+-])(\d)", match[2])))

    def slate(self) -> Slate:
        """A bare slate, with the gold answer in ``meta["answer"]`` for verifiers."""
        return Slate(self.prompt, meta={"id": self.text, "answer": str(self.answer), "problem": self.text})


def apply(value: int, term: Term) -> int:
    """One step on the clock."""
    sign, number = term
    return (value + number if sign == "+" else value - number) % MODULUS


def draw_problem(rng: random.Random) -> Problem:
    terms = tuple((rng.choice("+-"), rng.randrange(1, MODULUS)) for _ in range(3))
    return Problem(rng.randrange(MODULUS), terms)

@dataclass(frozen=True)
class Pupils:
    slip: float = 0.1
    skip: float = 0.1
    unmarked: float = 0.15
    stubborn: float = 0.0

    def __call__(self, rng: random.Random) -> tuple[str, str]:
        p = draw_problem(rng)
        terms=list(p.terms)
        if rng.random()<ORDER: rng.shuffle(terms)
        v=p.start; lines=[]
        for t in terms:
            w=apply(v,t)
            if len(terms)>1 and rng.random()<self.slip: w=(w+rng.choice((1,9,2,8)))%MODULUS
            lines.append(f"{v}{t[0]}{t[1]}={w}"); v=w
        if rng.random()>self.unmarked: lines.append(f"#### {v}")
        return p.prompt, "\n".join(lines)
ORDER=1.0

SHORT = 0.0
def draw_problem(rng: random.Random) -> Problem:
    n = 3 if rng.random() >= SHORT else 1
    terms = tuple((rng.choice("+-"), rng.randrange(1, MODULUS)) for _ in range(n))
    return Problem(rng.randrange(MODULUS), terms)
