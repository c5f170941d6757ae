"""Goals: a score named in the prompt, so that of two responses the better one is the one nearer to it.

For a goal g and responses with rewards r the reward is relabelled as R(x, y, g) = -|g - r(x, y)|^2. With each
response's own reward as the goal in turn, a pair teaches twice, each time with another response chosen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefine.curating.columns import need
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.registry import at_least, one_of
from prefine.slate import (
    CHOSEN,
    REJECTED,
    Contrast,
    Feedback,
    Message,
    Prompt,
    Slate,
    prompt_from_json,
    prompt_to_json,
)

TEXT = "Respond so that the quality of the response is scored as follows, where 1 is worst and 10 is best: {goal}"
LOWEST, HIGHEST = 1.0, 10.0

Goal = tuple[str, ...]
"""One number a column, as it is written."""


def in_front(turns: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """In the system message, which there is only one of."""
    if turns and turns[0]["role"] == "system":
        return ({**turns[0], "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:])
    return ({"role": "system", "content": text}, *turns)


def before_the_question(turns: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """In the last turn of the user, for models without a system message."""
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is None:
        return ({"role": "user", "content": text}, *turns)
    asked = {**turns[last], "content": f"{text}\n\n{turns[last]['content']}"}
    return (*turns[:last], asked, *turns[last + 1 :])


PLACES: Mapping[str, Callable[[tuple[Message, ...], str], tuple[Message, ...]]] = {
    "system": in_front,
    "user": before_the_question,
}


@dataclass(frozen=True)
class Goals:
    """How goals are made of columns of scores, and how they are put to a model: see ``goals``."""

    columns: tuple[str, ...]
    scales: tuple[tuple[float, float], ...]
    text: str
    place: str
    digits: int

    @property
    def top(self) -> Goal:
        """The best there is, in every column."""
        return tuple(f"{HIGHEST:g}" for _ in self.columns)

    def of(self, slate: Slate, index: int) -> Goal:
        """A response's own scores."""
        return tuple(
            self._written(float(slate.column(name)[index]), *scale)
            for name, scale in zip(self.columns, self.scales, strict=True)
        )

    def words(self, goal: Goal) -> str:
        """What the model is told."""
        named = len(self.columns) > 1
        parts = [f"{name} {value}" if named else value for name, value in zip(self.columns, goal, strict=True)]
        return self.text.replace("{goal}", ", ".join(parts))

    def asked(self, slate: Slate, goal: Goal) -> Slate:
        """The slate with the goal in its prompt. What was asked without it is kept in ``meta``."""
        candidates = tuple(
            c if c.prompt is None else replace(c, prompt=self._put(c.prompt, goal)) for c in slate.candidates
        )
        meta = {**slate.meta, PLAIN: prompt_to_json(slate.prompt)}
        return replace(slate, prompt=self._put(slate.prompt, goal), candidates=candidates, meta=meta)

    def _put(self, prompt: Prompt, goal: Goal) -> Prompt:
        words = self.words(goal)
        return f"{words}\n\n{prompt}" if isinstance(prompt, str) else PLACES[self.place](tuple(prompt), words)

    def _written(self, score: float, low: float, high: float) -> str:
        share = min(max((score - low) / (high - low), 0.0), 1.0)
        return f"{round(LOWEST + share * (HIGHEST - LOWEST), self.digits):g}"


PLAIN = "prompt without goal"


def goals(
    columns: Sequence[str] = ("score",),
    scales: Sequence[tuple[float, float]] = ((LOWEST, HIGHEST),),
    text: str = TEXT,
    place: str = "system",
    digits: int = 1,
) -> Goals:
    """Scores as goals from 1 to 10: what each column goes from and to, the words ({goal} is the number), and where a
    conversation has them (system, or before the user's question; a text prompt has them in front).

    >>> goals(text="[{goal}]").words(("7.5",))
    '[7.5]'
    """
    one_of("place", place, PLACES)
    at_least(0, digits=digits)
    if "{goal}" not in text:
        raise InputError(f"the text {text!r} has no place for the goal", remedy="write {goal} where the number goes")
    if not columns:
        raise InputError("no column of scores is named", remedy="give the names of one or more columns")
    return Goals(tuple(columns), tuple((float(a), float(b)) for a, b in scales), text, place, digits)


def range_of(contrasts: Iterable[Contrast], column: str) -> tuple[float, float]:
    """The lowest and the highest score that these contrasts have in a column."""
    found = [float(c.slate.column(column)[i]) for c in contrasts for i in c.members]
    if len(set(found)) < 2:
        raise InputError(
            f"every response has the same {column!r}: there are no goals to tell apart",
            remedy="give responses with different scores, or another column",
        )
    return min(found), max(found)


@dataclass(frozen=True)
class Relabelled:
    """Every pair twice: see ``relabelled``."""

    goals: Goals

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in contrasts:
            need([contrast], *self.goals.columns)
            first, second = (self.goals.of(contrast.slate, member) for member in contrast.members)
            if first == second:  # two lessons that contradict each other under one prompt
                continue
            for goal, members in ((first, contrast.members), (second, contrast.members[::-1])):
                slate = self.goals.asked(contrast.slate, goal)
                yield replace(contrast, slate=slate, members=members, roles=(CHOSEN, REJECTED), values={})


def relabelled(goals: Goals) -> Relabelled:
    """Every pair under the goal of its chosen response, which wins, and under that of its rejected one, which wins
    there (Zhang et al., arXiv 2410.08067). Pairs whose two goals read the same are left out."""
    return Relabelled(goals)


@dataclass(frozen=True)
class Aimed:
    """Contrasts, or slates, with one goal for all of them."""

    goals: Goals
    goal: Goal

    def __call__(self, contrasts: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        return (replace(c, slate=self.goals.asked(c.slate, self.goal)) for c in contrasts)

    def slates(self, slates: Iterable[Slate]) -> Iterator[Slate]:
        return (self.goals.asked(slate, self.goal) for slate in slates)


def aimed(goals: Goals, goal: Goal | None = None) -> Aimed:
    """Everything under one goal, the best by default: how a model that was trained on goals is asked."""
    return Aimed(goals, goals.top if goal is None else goal)


@dataclass(frozen=True)
class WithoutGoal:
    """A judge that is not shown the goals: it says how good a response is, not how near to what was asked for."""

    judge: Judge

    @property
    def __name__(self) -> str:
        return str(getattr(self.judge, "__name__", None) or type(self.judge).__name__)

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return self.judge([_plain(slate) for slate in slates])


def _plain(slate: Slate) -> Slate:
    meta: dict[str, Any] = dict(slate.meta)
    prompt = meta.pop(PLAIN, None)
    return slate if prompt is None else replace(slate, prompt=prompt_from_json(prompt), meta=meta)
