"""Responses that think before they answer: their form, whether the answer follows from the thought, repetition.

A form tells thought and answer apart and puts them together again. What the thought leads to is said by a reader who
sees the question and the thought, and not the answer: a rule, or a language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefine.judging.answers import Extract, final_answer, same
from prefine.judging.base import Judge, spoken_by
from prefine.judging.compared import only_scores
from prefine.judging.models import live, room_for
from prefine.judging.tagged import tagged_answer
from prefine.policies.base import Sampling
from prefine.registry import at_least
from prefine.slate import Feedback, Prompt, Slate, labels, prompt_text, scores

Columns = Mapping[str, Feedback]


# -- forms


class Form(Protocol):
    """How a response is laid out."""

    def split(self, response: str) -> tuple[str, str] | None:
        """(thought, answer), None where the response has not this form."""
        ...

    def join(self, thought: str, answer: str) -> str: ...


@dataclass(frozen=True)
class InTags:
    """<think> thought </think><answer> answer </answer>, each tag once and in order.

    >>> InTags().split("<think>2 and 2</think><answer> 4 </answer>"), InTags().split("4")
    (('2 and 2', '4'), None)
    """

    def split(self, response: str) -> tuple[str, str] | None:
        answer = tagged_answer(response)
        if answer is None:
            return None
        return response.split("<think>")[1].split("</think>")[0].strip(), answer

    def join(self, thought: str, answer: str) -> str:
        return f"<think>{thought}</think><answer>{answer}</answer>"


@dataclass(frozen=True)
class Marked:
    """The thought, then the answer on a last line behind a marker.

    >>> Marked("####").split("2+2=4\\n#### 4"), Marked("####").split("4")
    (('2+2=4', '4'), None)
    """

    marker: str

    def split(self, response: str) -> tuple[str, str] | None:
        thought, found, answer = response.rpartition(self.marker)
        return (thought.strip(), answer.strip()) if found and "\n" not in answer.strip() else None

    def join(self, thought: str, answer: str) -> str:
        return f"{thought}\n{self.marker} {answer}"


def form_of(text: str) -> Form:
    """ "tags", or a marker before the answer."""
    return InTags() if text == "tags" else Marked(text)


# -- readers: what a thought leads to


Reader = Callable[[Sequence[tuple[Prompt, str]]], Sequence[str | None]]
"""(question, thought)s -> the answer each leads to, None where that cannot be said."""


@dataclass(frozen=True)
class Concluding:
    """The final answer that the thought itself ends in: the usual marks, else its last number."""

    extract: Extract = final_answer

    def __call__(self, asked: Sequence[tuple[Prompt, str]]) -> list[str | None]:
        return [self.extract(thought) or None for _, thought in asked]


CONCLUDING = Concluding()

CONCLUDE = """Question:
{prompt}

Somebody's notes on it:
{thought}

Which final answer do these notes lead to, right or wrong? Write "Answer:" and nothing but that answer after it.
"""


@dataclass(frozen=True)
class Reading:
    """A language model that is shown the question and the thought."""

    model: Any
    template: str = CONCLUDE
    extract: Extract = final_answer
    max_tokens: int = 64
    chat: bool | None = None

    def __call__(self, asked: Sequence[tuple[Prompt, str]]) -> list[str | None]:
        prompts = [self._ask(question, thought) for question, thought in asked]
        seeds = [int.from_bytes(hashlib.sha256(str(p).encode()).digest()[:8], "big") >> 1 for p in prompts]
        model = live(self.model)
        sampling = Sampling(1, 0.0, max_tokens=room_for(model, self.max_tokens))
        said = model.sample(prompts, sampling, seeds) if prompts else []
        return [self.extract(one[0].text) or None for one in said]

    def _ask(self, question: Prompt, thought: str) -> Prompt:
        first, middle, last = self.template.partition("{thought}")
        text = first.replace("{prompt}", prompt_text(question)) + (thought if middle else "") + last
        as_chat = not isinstance(question, str) if self.chat is None else self.chat
        return ({"role": "user", "content": text},) if as_chat else text


# -- judges


@dataclass(frozen=True)
class Consistent:
    """True where the answer is what the thought leads to, False where it is not or there is no thought.

    None (an abstention, which is counted): the response has not the form, or the reader could not say.
    """

    form: Form
    reader: Reader = CONCLUDING
    equal: Callable[[str, str], bool] = same
    name: str = "consistent"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        parts = [[self.form.split(slate.response(i)) for i in range(len(slate))] for slate in slates]
        asked = [
            (slate.prompt_of(i), part[0])
            for slate, of in zip(slates, parts, strict=True)
            for i, part in enumerate(of)
            if part is not None and part[0]
        ]
        led = iter(self.reader(asked))
        return [{self.name: labels([self._verdict(part, led) for part in of])} for of in parts]

    def _verdict(self, part: tuple[str, str] | None, led: Any) -> bool | None:
        if part is None:
            return None
        if not part[0]:
            return False
        found = next(led)
        return None if found is None else self.equal(found, part[1])


@dataclass(frozen=True)
class Repetition:
    """The share of a response's n-grams of words that it had said before, 0 to 1."""

    n: int = 4
    name: str = "repetition"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([repeated(s.response(i), self.n) for i in range(len(s))])} for s in slates]


def repeated(text: str, n: int) -> float:
    """1 - different n-grams / n-grams; 0 for a text shorter than two of them.

    >>> repeated("a b a b a b", 2), repeated("a b c", 2)
    (0.6, 0.0)
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class Outcome:
    """What reinforcement learning is paid: accuracy in [0, 1], plus a bonus for an answer that can be read.

    From a verifier's verdict v (1 right, 0 wrong, between: nearly right, below 0: unreadable or out of form). Columns:
    the verifier's, "accuracy" = max(v, 0) and "score" = accuracy + bonus [v >= 0]; None where it abstains.
    """

    verifier: Judge
    bonus: float = 0.5

    def spoken_by(self, policy: object) -> Outcome:
        """For verifiers that are the policy itself."""
        return Outcome(spoken_by(self.verifier, policy), self.bonus)  # type: ignore[arg-type]

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [self._columns(columns) for columns in self.verifier(slates)]

    def _columns(self, columns: Columns) -> Columns:
        verdicts = columns["verified"].values if "verified" in columns else only_scores(columns)
        accuracy = [None if v is None else min(1.0, max(0.0, v)) for v in verdicts]
        paid = [
            None if a is None else a + self.bonus * (v >= 0) for a, v in zip(accuracy, verdicts, strict=True)
        ]  # fmt: skip
        kept = {name: column for name, column in columns.items() if name != "score"}
        return {**kept, "accuracy": scores(accuracy), "score": scores(paid)}


def consistent(form: Form | str = "tags", reader: Reader = CONCLUDING, name: str = "consistent") -> Consistent:
    """Whether the answer follows from the thought."""
    return Consistent(form_of(form) if isinstance(form, str) else form, reader, name=name)


def repetition(n: int = 4, name: str = "repetition") -> Repetition:
    """How much of a response is repeated."""
    at_least(1, n=n)
    return Repetition(n, name)


def outcome(verifier: Judge, bonus: float = 0.5) -> Outcome:
    """The reward of an answer that is checked."""
    at_least(0, bonus=bonus)
    return Outcome(verifier, bonus)
