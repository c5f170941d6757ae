"""Probabilities of k options: a model asked to name one of them, read off what it would say, not what it wrote.

    OptionChoice   which of all K responses is best: each stands in each place once, averaged
    OptionScore    how good one response is: the mean of the options' values

(Which of two is better: ``judging.choices``.) Nothing is sampled, so nothing is unreadable; a model that likes a letter
or a place cannot favour a response by it, since every response has every letter and place equally often.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefine.errors import InputError
from prefine.judging.models import NO_LIMITS, speaker, whole
from prefine.policies.base import Limits
from prefine.slate import Candidate, Feedback, Prompt, Slate, group, prompt_text, scores

Columns = Mapping[str, Feedback]

BEST_OF = """Question:
{prompt}

{answers}
Which answer is best? Answer with its letter.
"""

RATED = """Question:
{prompt}

Answer:
{response}

How good is this answer, from 1 (bad) to 5 (perfect)? Answer with the number.
"""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class OptionChoice:
    """The probability that a response is named the best of all K, in K prompts: each response in each place once.

    One column, whose values add up to 1 over the slate: K forward passes, where a table needs K (K - 1).
    """

    model: Any
    template: str = BEST_OF
    chat: bool | None = None
    name: str = "score"
    limits: Limits = NO_LIMITS

    def spoken_by(self, policy: Any) -> OptionChoice:
        """The judge with this policy as its model, where it has none of its own."""
        return replace(self, model=policy) if self.model is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores(self._shares(slate))} for slate in slates]

    def _shares(self, slate: Slate) -> list[float]:
        K = len(slate)
        if len(LETTERS) < K:
            raise InputError(f"{K} responses are too many to choose from by letter", remedy="compare them in pairs")
        orders = [[(start + place) % K for place in range(K)] for start in range(K)]
        asked = [self._question(slate, order) for order in orders]
        shares = [0.0] * K
        told = option_probabilities(self.model, asked, LETTERS[:K], self.limits)
        for order, probabilities in zip(orders, told, strict=True):
            for i, p in zip(order, probabilities, strict=True):
                shares[i] += p / K
        return shares

    def _question(self, slate: Slate, order: Sequence[int]) -> Prompt:
        answers = "".join(f"Answer {LETTERS[n]}:\n{slate.response(i)}\n\n" for n, i in enumerate(order))
        return filled(self.template, slate, {"prompt": prompt_text(slate.prompt), "answers": answers}, self.chat)


@dataclass(frozen=True)
class OptionScore:
    """sum over options of p(option) * value: a grade without sampling one.

    Without ``values`` the options are numbers themselves: "1" to "5".
    """

    model: Any
    template: str = RATED
    options: tuple[str, ...] = ("1", "2", "3", "4", "5")
    values: tuple[float, ...] = ()
    chat: bool | None = None
    name: str = "score"
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        _check(self.options)
        if self.values and len(self.values) != len(self.options):
            raise InputError(
                f"{len(self.values)} values for {len(self.options)} options", remedy="give each option its value"
            )
        if not self.values and not all(re.fullmatch(r"-?\d+(\.\d+)?", option) for option in self.options):
            raise InputError(f"the options {list(self.options)} are no numbers", remedy="give a value for each")

    def spoken_by(self, policy: Any) -> OptionScore:
        """The judge with this policy as its model, where it has none of its own."""
        return replace(self, model=policy) if self.model is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        worth = self.values or tuple(map(float, self.options))
        asked = [question(self.template, slate, i, self.chat) for slate in slates for i in range(len(slate))]
        told = iter(option_probabilities(self.model, asked, self.options, self.limits))
        return [{self.name: scores([_mean(next(told), worth) for _ in range(len(slate))])} for slate in slates]


def option_probabilities(
    model: Any, prompts: Sequence[Prompt], options: Sequence[str], limits: Limits = NO_LIMITS
) -> list[list[float]]:
    """p(option | prompt), among the options alone, for every prompt."""
    return [softmax(logps) for logps in option_logps(model, prompts, options, limits)]


def option_logps(
    model: Any, prompts: Sequence[Prompt], options: Sequence[str], limits: Limits = NO_LIMITS
) -> list[list[float]]:
    """log p(option | prompt) of every option as a continuation, whole words, no end token after them."""
    if not prompts:
        return []
    asked_of = speaker(model)
    if hasattr(asked_of, "response_logps"):
        return [[sum(asked_of.response_logps(p, option)) for option in options] for p in prompts]
    from prefine.engine.score import score_contrasts

    words = tuple(Candidate(word, stop="length") for word in options)
    asked = [group(Slate(p, words), range(len(words)), [0] * len(words)) for p in prompts]
    return [[whole(logp_T) for logp_T in scored] for scored in score_contrasts(asked_of, asked, limits)]


def question(template: str, slate: Slate, index: int, chat: bool | None = None) -> Prompt:
    """The question about one response."""
    parts = {"prompt": prompt_text(slate.prompt_of(index)), "response": slate.response(index)}
    return filled(template, slate, parts, chat)


def filled(template: str, slate: Slate, parts: Mapping[str, str], chat: bool | None = None) -> Prompt:
    """A template with its {names} replaced, once: a response that contains "{prompt}" stays as it is. One user
    message where the slate's own prompt is a conversation (``chat`` says it for all)."""
    text = re.sub(r"\{(\w+)\}", lambda match: parts.get(match[1], match[0]), template)
    as_chat = not isinstance(slate.prompt, str) if chat is None else chat
    return ({"role": "user", "content": text},) if as_chat else text


def softmax(logps: Sequence[float]) -> list[float]:
    """Probabilities from log-probabilities.

    >>> [round(p, 6) for p in softmax([math.log(0.3), math.log(0.1)])]
    [0.75, 0.25]
    """
    top = max(logps)
    if top == -math.inf:
        return [1 / len(logps)] * len(logps)
    parts = [math.exp(logp - top) for logp in logps]
    return [part / sum(parts) for part in parts]


def _mean(probabilities: Sequence[float], values: Sequence[float]) -> float:
    return sum(p * v for p, v in zip(probabilities, values, strict=True))


def _check(options: Sequence[str]) -> None:
    if len(options) < 2 or len(set(options)) < len(options) or not all(options):
        raise InputError(f"the options {list(options)} are not two or more different words", remedy="give others")


def option_choice(model: Any, template: str = BEST_OF, chat: bool | None = None, name: str = "score") -> OptionChoice:
    """A model asked which of all answers is best."""
    return OptionChoice(model, template, chat, name)


def option_score(
    model: Any, template: str = RATED, options: tuple[str, ...] = ("1", "2", "3", "4", "5"),
    values: tuple[float, ...] = (), chat: bool | None = None, name: str = "score",
) -> OptionScore:  # fmt: skip
    """A model asked for a grade, whose probabilities are averaged."""
    return OptionScore(model, template, tuple(options), tuple(values), chat, name)
