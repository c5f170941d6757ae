"""A model asked to choose: which of two responses is better, A or B, as the probability of either letter.

Every two responses of a slate are put side by side in one question, and what is read is not a sampled letter but its
probability as the next token. Asked in both orders (the default) a liking for the first place cancels; in one order
it is a coin's, which only evens out over many pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar

from prefine.judging.annotators import dice
from prefine.judging.models import NO_LIMITS, speaker, whole
from prefine.policies.base import Limits
from prefine.registry import between
from prefine.slate import Candidate, Feedback, Prompt, Slate, group, prompt_text, scores, table

Columns = Mapping[str, Feedback]

WHICH = """Question:
{prompt}

Response A:
{first}

Response B:
{second}

Which response is better? Answer with one letter, A or B.
"""

LETTERS = ("A", "B")
FLOOR = 1e-8


@dataclass(frozen=True)
class Choices:
    """P(i beats j) = P(letter of i) / (P(A) + P(B)), the mean over the orders asked.

    A letter's probability is summed over ``forms`` (with and without a space before it: different tokens). A question
    on which both letters together have less than ``least`` is unread. Columns: the score log( 1e-8 + mean over the
    others of P(i beats j) ), None where nothing about i was read (an abstention, which is counted); the table, 1/2
    where a pair was not read; and NAME_read, how many questions about a response were.
    """

    compares: ClassVar[bool] = True
    model: Any
    template: str = WHICH
    both: bool = True
    least: float = 0.0
    forms: tuple[str, ...] = ("{}", " {}")
    chat: bool | None = None
    seed: int = 0
    name: str = "preference"
    score: str = "score"
    limits: Limits = NO_LIMITS

    def spoken_by(self, policy: Any) -> Choices:
        """The judge with this policy as its model, where it has none of its own."""
        return replace(self, model=policy) if self.model is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        asked = [list(self._pairs(slate)) for slate in slates]
        prompts = [self._ask(slate, i, j) for slate, pairs in zip(slates, asked, strict=True) for i, j in pairs]
        masses = iter(self._masses(speaker(self.model), prompts))
        return [
            self._columns(slate, [(i, j, next(masses)) for i, j in pairs])
            for slate, pairs in zip(slates, asked, strict=True)
        ]

    def _pairs(self, slate: Slate) -> Iterator[tuple[int, int]]:
        """(shown as A, shown as B) of every question."""
        coin = dice("choices", self.seed, slate)
        for i, j in combinations(range(len(slate)), 2):
            if self.both:
                yield from ((i, j), (j, i))
            else:
                yield (i, j) if coin.random() < 0.5 else (j, i)

    def _ask(self, slate: Slate, first: int, second: int) -> Prompt:
        said = {"prompt": prompt_text(slate.prompt), "first": slate.response(first), "second": slate.response(second)}
        text = re.sub(r"\{(prompt|first|second)\}", lambda match: said[match[1]], self.template)
        as_chat = not isinstance(slate.prompt, str) if self.chat is None else self.chat
        return ({"role": "user", "content": text},) if as_chat else text

    def _masses(self, model: Any, prompts: Sequence[Prompt]) -> list[tuple[float, float]]:
        """(P(A), P(B)) as the next token of every prompt."""
        words = [[form.format(letter) for form in self.forms] for letter in LETTERS]
        if hasattr(model, "response_logps"):
            return [
                (self._mass(model, prompt, words[0]), self._mass(model, prompt, words[1]))  # one request a word
                for prompt in prompts
            ]
        from prefine.engine.score import score_contrasts

        # "length": the letter as it stands, without an end token after it.
        said = tuple(Candidate(word, stop="length") for of_one in words for word in of_one)
        rows = [group(Slate(prompt, said), range(len(said)), [0] * len(said)) for prompt in prompts]
        scored = score_contrasts(model, rows, self.limits)
        half = len(self.forms)
        masses = [[math.exp(whole(logp)) for logp in of_one] for of_one in scored]
        return [(sum(mass[:half]), sum(mass[half:])) for mass in masses]

    @staticmethod
    def _mass(model: Any, prompt: Prompt, words: Sequence[str]) -> float:
        return sum(math.exp(sum(model.response_logps(prompt, word))) for word in words)

    def _columns(self, slate: Slate, answers: Sequence[tuple[int, int, tuple[float, float]]]) -> Columns:
        K = len(slate)
        won: dict[tuple[int, int], list[float]] = {}
        for i, j, (a, b) in answers:
            if a + b >= self.least:
                p = (a + FLOOR) / (a + b + 2 * FLOOR)
                won.setdefault((i, j), []).append(p)
                won.setdefault((j, i), []).append(1 - p)
        P = [[_mean(won.get((i, j), [])) for j in range(K)] for i in range(K)]
        known = [[p for j, p in enumerate(row) if j != i and p is not None] for i, row in enumerate(P)]
        return {
            self.score: scores([math.log(FLOOR + sum(of) / len(of)) if of else None for of in known]),
            self.name: table([[0.5 if p is None else p for p in row] for row in P]),
            f"{self.name}_read": scores([sum(len(won.get((i, j), [])) for j in range(K)) for i in range(K)]),
        }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def choices(
    model: Any,
    template: str = WHICH,
    both: bool = True,
    least: float = 0.0,
    chat: bool | None = None,
    name: str = "preference",
    score: str = "score",
) -> Choices:
    """A model that says which of every two responses is better, by the probability of A and of B."""
    between(0, 1, least=least)
    return Choices(model, template, both, least, chat=chat, name=name, score=score)
