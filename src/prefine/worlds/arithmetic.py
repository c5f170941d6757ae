"""The arithmetic world: small sums worked out step by step, with an answer that can be checked.

A problem is a start and three signed terms, ``Problem: 4+5-3+2``. A solution takes the terms in any order, one
step a line, and ends with the answer behind a marker::

    4+5=9
    9-3=6
    6+2=8
    #### 8

The base policy imitates pupils (``Pupils``) who slip, who like to guess when the first thing to do is a
subtraction, and who often leave the marker out when the answer is small. So working things out is in reach,
votes over samples beat the single greedy answer, and some answers cannot be read at all.

Verified is +1 for the right answer behind the marker, 0 for a wrong one, -1 where there is none; gold is 1 for
right and else 0. Steps are checked one by one: a step is right when it goes on from the number before, uses a
term that is still open, and its sum is right. Everything is read by a small parser; nothing that a model wrote
is ever evaluated.

The base can also write problems (for self-instruction): ``invent`` gives the prompt, ``Problem.parse`` reads
what comes back. In the variant ``arithmetic:misled`` most pupils count one short when they add (``5+3=7``), so
the majority is wrong in the same way and methods that trust it go astray.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from prefine.judging.annotators import BradleyTerry, LengthBiased, Majority, Noisy, Perfect, Several
from prefine.judging.base import Judge, Scored
from prefine.slate import Feedback, Slate
from prefine.worlds.base import World
from prefine.worlds.pretrain import Settings, pretrained
from prefine.worlds.splits import draw, fact, part

SETTINGS = Settings(steps=1200, rows=8, width=64, layers=2, peak_lr=5e-3, seed=7)

TOP = 10
"""Totals stay between 0 and this, in the order the problem is written."""

LARGEST = 5
"""Terms are 1 to this."""

MARKER = "####"

Term = tuple[str, int]
"""A sign and a number."""


# ---------------------------------------------------------------- problems


@dataclass(frozen=True)
class Problem:
    """A start and the terms to add to it or take from it."""

    start: int
    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        return str(self.start) + "".join(f"{sign}{number}" for sign, number in self.terms)

    @property
    def prompt(self) -> str:
        return f"Problem: {self.text}\nSolution:\n"

    @property
    def answer(self) -> int:
        return _totals(self.start, self.terms)[-1]

    @property
    def slate(self) -> Slate:
        """A bare slate; ``meta["answer"]`` is the gold answer, for verifiers."""
        return Slate(self.prompt, meta={"id": self.text, "answer": str(self.answer), "steps": working(self)})

    @staticmethod
    def parse(text: str) -> Problem | None:
        """The problem that a text states, None if it states none (or one whose totals leave 0 .. TOP)."""
        match = re.fullmatch(rf"\s*(?:Problem:)?\s*(10|\d)((?:[+-][1-{LARGEST}]){{1,4}})\s*(?:Solution:)?\s*", text)
        if match is None:
            return None
        problem = Problem(int(match[1]), tuple((s, int(n)) for s, n in re.findall(r"([+-])(\d)", match[2])))
        return problem if _in_reach(problem.start, problem.terms) else None


def invent(examples: Sequence[Slate]) -> str:
    """A prompt that asks for one more problem like these."""
    return "Problems:\n" + "".join(f"{slate.id}\n" for slate in examples)


def working(problem: Problem) -> list[str]:
    """The reference steps: the terms in the order they are written."""
    return _lines(problem.start, problem.terms)


def prompts(split: str, n: int, seed: int = 0) -> list[Slate]:
    """n different problems of a split."""
    return [problem.slate for problem in draw("arithmetic", _problems(), split, n, seed)]


@cache
def _problems() -> tuple[Problem, ...]:
    terms = list(product("+-", range(1, LARGEST + 1)))
    return tuple(Problem(s, ts) for s in range(10) for ts in product(terms, repeat=3) if _in_reach(s, ts))


@cache
def _train() -> tuple[Problem, ...]:
    return tuple(part("arithmetic", _problems(), "train"))


def _apply(value: int, term: Term) -> int:
    return value + term[1] if term[0] == "+" else value - term[1]


def _totals(start: int, terms: Sequence[Term]) -> list[int]:
    totals = [start]
    for term in terms:
        totals.append(_apply(totals[-1], term))
    return totals


def _in_reach(start: int, terms: Sequence[Term]) -> bool:
    return all(0 <= total <= TOP for total in _totals(start, terms))


def _lines(start: int, terms: Sequence[Term]) -> list[str]:
    totals = _totals(start, terms)
    return [f"{a}{sign}{number}={b}" for a, (sign, number), b in zip(totals, terms, totals[1:])]


# ---------------------------------------------------------------- checking


def final_answer(response: str) -> str | None:
    """What stands behind the marker on the last line, None if the marker is missing."""
    match = re.fullmatch(rf"{MARKER} (\d{{1,4}})", response.strip().rpartition("\n")[2])
    return match[1] if match else None


def check_steps(slate: Slate, response: str) -> list[float]:
    """1 or 0 for every line before the answer: does it go on from the number before, use a term of the problem
    that is still open, and get the sum right? A step that builds on a wrong one can be right in itself."""
    problem = Problem.parse(slate.id)
    if problem is None:
        return []
    value, left, values = problem.start, list(problem.terms), []
    for line in response.strip().split("\n"):
        if line.startswith(MARKER):
            continue
        step = re.fullmatch(r"(\d{1,4})([+-])(\d{1,4})=(\d{1,4})", line)
        if step is None:
            values.append(0.0)
            continue
        term = (step[2], int(step[3]))
        values.append(float(int(step[1]) == value and term in left and _apply(value, term) == int(step[4])))
        value = int(step[4])
        if term in left:
            left.remove(term)
    return values


def verify(slate: Slate) -> list[float]:
    """+1 right, 0 wrong, -1 no answer to be found."""
    gold = fact("arithmetic", slate, "answer")
    answers = [final_answer(slate.response(i)) for i in range(len(slate))]
    return [-1.0 if a is None else float(a == gold) for a in answers]


def correct(slate: Slate) -> list[float]:
    """1 right, else 0."""
    return [max(0.0, v) for v in verify(slate)]


def sound(slate: Slate) -> list[float]:
    """The share of the problem's terms that are worked off by right steps."""
    terms = len(fact("arithmetic", slate, "steps"))
    return [min(1.0, sum(check_steps(slate, slate.response(i))) / terms) for i in range(len(slate))]


def brief(slate: Slate) -> list[float]:
    """Minus the number of lines."""
    return [-float(len(slate.response(i).split("\n"))) for i in range(len(slate))]


@dataclass(frozen=True)
class Steps:
    """Adds the column "steps": ``check_steps`` of every candidate."""

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [
            {"steps": Feedback("steps", tuple(tuple(check_steps(s, s.response(i))) for i in range(len(s))))}
            for s in slates
        ]


# ---------------------------------------------------------------- pupils


@dataclass(frozen=True)
class Pupils:
    """Whose work the base policy imitates. Shares and probabilities:"""

    single: float = 0.25
    """Rows that are a single sum without mistakes: how the tables are learnt."""
    inventing: float = 0.05
    """Rows that state a new problem."""
    shuffled: float = 0.2
    """Solutions that take the terms in another order than written."""
    slip: float = 0.03
    """A step is off by one or two."""
    miscount: float = 0.02
    """Adding 3 or more is one short, as if the first number counted too: 5+3=7."""
    hasty: tuple[float, float] = (0.03, 0.6)
    """The answer is guessed without working: usually, and when the first term takes away 2 or more."""
    unmarked: tuple[float, float] = (0.08, 0.6)
    """The marker is missing: usually, and when the answer is below 3."""

    def __call__(self, rng: random.Random) -> tuple[str, str]:
        kind = rng.random()
        if kind < self.inventing:
            examples = [rng.choice(_train()) for _ in range(rng.choice((2, 3)))]
            return invent([p.slate for p in examples]), rng.choice(_train()).text
        if kind < self.inventing + self.single:
            problem = rng.choice(_train())
            return self._single(problem, rng)
        return self._solution(rng.choice(_train()), rng)

    def _single(self, problem: Problem, rng: random.Random) -> tuple[str, str]:
        """One step out of a problem, as a problem of its own."""
        at = rng.randrange(len(problem.terms))
        step = Problem(_totals(problem.start, problem.terms)[at], problem.terms[at : at + 1])
        total = step.answer - (self.miscount >= 0.5 and _tempting(step.terms[0]))
        return step.prompt, f"{step.text}={total}\n{MARKER} {total}"

    def _solution(self, problem: Problem, rng: random.Random) -> tuple[str, str]:
        sign, number = problem.terms[0]
        if rng.random() < self.hasty[sign == "-" and number >= 2]:
            return problem.prompt, f"{MARKER} {abs(problem.answer + rng.choice((0, 0, 1, -1, 2, -2, 3, -3)))}"
        terms = list(problem.terms)
        if rng.random() < self.shuffled:
            rng.shuffle(terms)
        if not _in_reach(problem.start, terms):
            terms = list(problem.terms)
        value, lines = problem.start, []
        for term in terms:
            total = self._step(value, term, rng)
            lines.append(f"{value}{term[0]}{term[1]}={total}")
            value = total
        if rng.random() >= self.unmarked[value < 3]:
            lines.append(f"{MARKER} {value}")
        return problem.prompt, "\n".join(lines)

    def _step(self, value: int, term: Term, rng: random.Random) -> int:
        total = _apply(value, term)
        if rng.random() < self.miscount and _tempting(term):
            return total - 1
        if rng.random() < self.slip:
            total += rng.choice((-2, -1, 1, 2))
        return min(max(total, 0), TOP)


def _tempting(term: Term) -> bool:
    return term[0] == "+" and term[1] >= 3


def demonstrate(slate: Slate, rng: random.Random) -> str:
    """The reference steps and the answer."""
    return "\n".join([*slate.meta["steps"], f"{MARKER} {slate.meta['answer']}"])


# ---------------------------------------------------------------- the world


@dataclass(frozen=True)
class Base:
    """Directory to cache in -> the base policy that imitates these pupils."""

    name: str
    pupils: Pupils

    def __call__(self, cache: Path) -> Path:
        return pretrained(cache, self.name, self.pupils, SETTINGS)


def make_world(name: str, pupils: Pupils, summary: str) -> World:
    """The world with other pupils."""
    gold: Judge = Scored(correct, "gold")
    return World(
        name=name,
        summary=summary,
        prompts=prompts,
        gold=gold,
        annotators={
            "perfect": Perfect(gold),
            "noisy": Noisy(gold, rate=0.2),
            "length-biased": LengthBiased(gold, per_word=0.4),
            "several": Several(
                (("answers", gold), ("working", Scored(sound, "gold")), ("brevity", Scored(brief, "gold")))
            ),
            "cyclic": Majority((gold, Scored(sound, "sound"), Scored(brief, "brief"))),
        },
        base=Base(name.replace(":", "-"), pupils),
        demonstrate=demonstrate,
        verifier=Scored(verify, "verified"),
        preference=BradleyTerry(gold, scale=4.0),
        attributes={"sound": Scored(sound, "sound"), "brief": Scored(brief, "brief"), "steps": Steps()},
        max_tokens=32,
    )


WORLD = make_world("arithmetic", Pupils(), "small sums worked out in steps, with a checkable answer")

MISLED = Pupils(miscount=0.7, hasty=(0.03, 0.03), unmarked=(0.08, 0.08))

VARIANTS: Mapping[str, World] = {
    "misled": make_world("arithmetic:misled", MISLED, "sums where most pupils count wrongly in the same way")
}
