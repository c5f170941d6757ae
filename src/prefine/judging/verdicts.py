"""Written verdicts: a model that writes which of two responses is better, asked in both orders, its text read.

What cannot be read is no verdict, and is counted; a verdict that turns round with the order of the two is a tie.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar

from prefine.fingerprint import seed_of
from prefine.judging.models import room_for, speaker
from prefine.judging.options import filled
from prefine.policies.base import Sampling
from prefine.registry import at_least
from prefine.slate import Feedback, Prompt, Slate, prompt_text, table

Columns = Mapping[str, Feedback]

COMPARE = """Compare two answers to a question. Do not let their order or their length decide.

Question:
{prompt}

Answer A:
{first}

Answer B:
{second}

Say in one sentence why, then end with the line "Verdict: A", "Verdict: B" or "Verdict: tie".
"""

WORTH: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Verdicts:
    """P[i][j] = mean of the verdicts on i and j that could be read (1 won, 0 lost, 1/2 tie), over both orders and
    ``samples`` of each; 1/2 where none could.

    Columns, all tables: NAME; NAME_read and NAME_unread, how many verdicts could be read and could not.
    """

    compares: ClassVar[bool] = True
    model: Any
    template: str = COMPARE
    pattern: str = r"verdict\s*:\s*\**\s*\[?\s*(a|b|tie)\b"
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    chat: bool | None = None
    name: str = "preference"

    def spoken_by(self, policy: Any) -> Verdicts:
        """The judge with this policy as its model, where it has none of its own."""
        return replace(self, model=policy) if self.model is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        asked = [(slate, i, j) for slate in slates for i, j in _orders(len(slate))]
        prompts = [self._ask(*one) for one in asked]
        seeds = [
            seed_of("verdict", self.seed, slate.id, slate.response(i), slate.response(j), i < j)
            for slate, i, j in asked
        ]
        model = speaker(self.model)
        sampling = Sampling(self.samples, self.temperature, max_tokens=room_for(model, self.max_tokens))
        told = iter(model.sample(prompts, sampling, seeds) if prompts else [])
        return [self._columns(len(slate), [[self.read(a.text) for a in next(told)] for _ in _orders(len(slate))])
                for slate in slates]  # fmt: skip

    def read(self, text: str) -> float | None:
        """What the last verdict in a text is worth to the answer shown first.

        >>> [Verdicts(None).read(text) for text in ("A is short. Verdict: B", "Verdict: **tie**", "A!")]
        [0.0, 0.5, None]
        """
        found = re.findall(self.pattern, text, flags=re.IGNORECASE)
        return WORTH[found[-1].lower()] if found else None

    def _ask(self, slate: Slate, first: int, second: int) -> Prompt:
        parts = {"prompt": prompt_text(slate.prompt_of(first)), "first": slate.response(first)}
        return filled(self.template, slate, {**parts, "second": slate.response(second)}, self.chat)

    def _columns(self, K: int, told: Sequence[Sequence[float | None]]) -> Columns:
        P, read, unread = ([[value] * K for _ in range(K)] for value in (0.5, 0.0, 0.0))
        wins: dict[tuple[int, int], list[float]] = {}
        for (i, j), verdicts in zip(_orders(K), told, strict=True):
            known = [v for v in verdicts if v is not None]
            pair, own = ((i, j), known) if i < j else ((j, i), [1 - v for v in known])
            wins.setdefault(pair, []).extend(own)
            for a, b in ((i, j), (j, i)):
                read[a][b] += len(known)
                unread[a][b] += len(verdicts) - len(known)
        for (i, j), values in wins.items():
            if values:
                P[i][j] = sum(values) / len(values)
                P[j][i] = 1 - P[i][j]
        return {self.name: table(P), f"{self.name}_read": table(read), f"{self.name}_unread": table(unread)}


def _orders(K: int) -> Iterator[tuple[int, int]]:
    """Every two of K, both ways round."""
    for i, j in combinations(range(K), 2):
        yield from ((i, j), (j, i))


def verdicts(
    model: Any, template: str = COMPARE, samples: int = 1, temperature: float = 0.0, max_tokens: int = 256,
    chat: bool | None = None, name: str = "preference",
) -> Verdicts:  # fmt: skip
    """A model that writes which of two answers is better, both ways round."""
    at_least(1, samples=samples)
    return Verdicts(
        model, template, samples=samples, temperature=temperature, max_tokens=max_tokens, chat=chat, name=name
    )
