"""Language models as judges: a written grade, or the probability of a yes.

The model is any policy that samples, an endpoint too, or a handle on one. Prompts are plain text, or one user
message where the slate's own prompt is a conversation (``chat`` says it for all).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefine.errors import InputError
from prefine.judging.models import NO_LIMITS, live, room_for, whole
from prefine.policies.base import Limits, Sampling
from prefine.slate import Candidate, Feedback, Prompt, Slate, group, prompt_text, scores

Columns = Mapping[str, Feedback]

ADDITIVE = """You grade an answer with 0 to 5 points. Add one point for each that holds:
1. It is about what was asked.
2. It covers most of what was asked.
3. It is correct and useful.
4. It is clear, well ordered and no longer than it needs to be.
5. An expert would change nothing.

Question:
{prompt}

Answer:
{response}

Say in one sentence why, then end with the line "Score: <points>".
"""
"""An additive five-point rubric, in the manner of self-rewarding language models (arXiv 2401.10020)."""

YES_NO = """Question:
{prompt}

Answer:
{response}

Is this a good answer? Answer Yes or No.
"""


@dataclass(frozen=True)
class LanguageJudge:
    """A model writes a grade, which is read off its text; several samples are averaged.

    Columns: the grade, None where no sample could be read; NAME_read and NAME_unread, how many samples could be and
    could not. A grade outside [low, high] counts as unread. Each response is graded in a prompt of its own, so there is
    no order that could favour one.
    """

    model: Any
    template: str = ADDITIVE
    low: float = 0.0
    high: float = 5.0
    pattern: str = r"score\s*:\s*\**\s*(-?\d+(?:\.\d+)?)"
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    chat: bool | None = None
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        asked = [(slate, i) for slate in slates for i in range(len(slate))]
        prompts = [ask(self.template, slate, i, self.chat) for slate, i in asked]
        seeds = [seed_for(self.seed, slate, i) for slate, i in asked]
        model = live(self.model)
        sampling = Sampling(self.samples, self.temperature, max_tokens=room_for(model, self.max_tokens))
        answers = iter(model.sample(prompts, sampling, seeds) if prompts else [])
        return [self._columns([self._grades(next(answers)) for _ in range(len(slate))]) for slate in slates]

    def _grades(self, answers: Sequence[Candidate]) -> list[float]:
        return [grade for a in answers if (grade := self.read(a.text)) is not None]

    def _columns(self, grades: Sequence[Sequence[float]]) -> Columns:
        means = [sum(g) / len(g) if g else None for g in grades]
        read = [len(g) for g in grades]
        return {
            self.name: scores(means),
            f"{self.name}_read": scores(read),
            f"{self.name}_unread": scores([self.samples - n for n in read]),
        }

    def read(self, text: str) -> float | None:
        """The last grade in a text.

        >>> [LanguageJudge(None).read(text) for text in ("Good. Score: 4", "Score: 9", "4")]
        [4.0, None, None]
        """
        found = re.findall(self.pattern, text, flags=re.IGNORECASE)
        return float(found[-1]) if found and self.low <= float(found[-1]) <= self.high else None


@dataclass(frozen=True)
class YesProbability:
    """P(yes) / (P(yes) + P(no)) as continuations of a question about the response."""

    model: Any
    template: str = YES_NO
    yes: str = "Yes"
    no: str = "No"
    chat: bool | None = None
    name: str = "score"
    limits: Limits = NO_LIMITS

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        model = live(self.model)
        prompts = [ask(self.template, slate, i, self.chat) for slate in slates for i in range(len(slate))]
        logps = iter(self._logps(model, prompts))
        return [{self.name: scores([yes_share(*next(logps)) for _ in range(len(slate))])} for slate in slates]

    def _logps(self, model: Any, prompts: Sequence[Prompt]) -> list[tuple[float, float]]:
        if hasattr(model, "response_logps"):
            return [(sum(model.response_logps(p, self.yes)), sum(model.response_logps(p, self.no))) for p in prompts]
        from prefine.engine.score import score_contrasts

        # "length": the word as it stands, without an end token after it.
        words = tuple(Candidate(word, stop="length") for word in (self.yes, self.no))
        asked = [group(Slate(p, words), (0, 1), (0, 0)) for p in prompts]
        scored = score_contrasts(model, asked, self.limits) if asked else []
        return [(whole(yes), whole(no)) for yes, no in scored]


@dataclass(frozen=True)
class SelfJudge:
    """A language judge whose model is the policy of the moment: recipes bind it with ``spoken_by``."""

    judge: LanguageJudge | YesProbability

    def spoken_by(self, policy: Any) -> LanguageJudge | YesProbability:
        """The judge with this policy as its model."""
        return replace(self.judge, model=policy)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        raise InputError(
            "this recipe has no policy that could judge itself",
            remedy="use --judge self with a recipe that judges its own samples, or name another judge",
        )


def yes_share(logp_yes: float, logp_no: float) -> float:
    """P(yes) among the two.

    >>> round(yes_share(math.log(0.3), math.log(0.1)), 6)
    0.75
    """
    return 1 / (1 + math.exp(min(logp_no - logp_yes, 700.0)))


def ask(template: str, slate: Slate, index: int, chat: bool | None = None) -> Prompt:
    """The question about one response. A response that contains "{prompt}" stays as it is."""
    parts = {"prompt": prompt_text(slate.prompt_of(index)), "response": slate.response(index)}
    text = re.sub(r"\{(prompt|response)\}", lambda match: parts[match[1]], template)
    as_chat = not isinstance(slate.prompt, str) if chat is None else chat
    return ({"role": "user", "content": text},) if as_chat else text


def seed_for(seed: int, slate: Slate, index: int) -> int:
    """The seed of one question: the judge's own, the prompt and the response decide it."""
    text = f"{seed}\n{slate.id}\n{slate.response(index)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def language_judge(
    model: Any,
    template: str = ADDITIVE,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 256,
    chat: bool | None = None,
    name: str = "score",
) -> LanguageJudge:
    """A model that writes a grade from 0 to 5."""
    return LanguageJudge(
        model, template, samples=samples, temperature=temperature, max_tokens=max_tokens, chat=chat, name=name
    )


def yes_judge(model: Any, template: str = YES_NO, chat: bool | None = None, name: str = "score") -> YesProbability:
    """A model asked whether the answer is a good one."""
    return YesProbability(model, template, chat=chat, name=name)
