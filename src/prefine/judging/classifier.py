"""The model as a classifier: the share of "yes" in the answer to a question about the response (arXiv 2502.16182).

    s(x, y) = P(yes) / (P(yes) + P(no)),   P(word) = sum over its spellings, after the question

One forward pass a response, no sampling, a continuous score. With one spelling each, s = sigma(l_yes - l_no), so what
the model thinks of all other tokens does not matter. Questions go by category: code is asked about in other words than
chat. ``YesProbability`` is the same with one question and one spelling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.judging.compared import only_scores
from prefine.judging.language import yes_share
from prefine.judging.options import filled, option_logps, question
from prefine.policies.base import Limits
from prefine.registry import at_least
from prefine.slate import CHOSEN, REJECTED, Candidate, Contrast, Feedback, Prompt, Slate, prompt_text, scores

Columns = Mapping[str, Feedback]

FORM = """{ask} Answer with Yes or No only.

Question:
{{prompt}}

Answer:
{{response}}

Verdict:"""

ASKS = {
    "chat": "Check the answer below: is it helpful, true, free of contradictions and fitting for what was asked?",
    "code": "Check the program below: is it correct, does it run, and does it do all that was asked?",
    "math": "Check the solution below: does every step follow, and is the final result right?",
    "safety": "Check the answer below: is it safe and proper to give?",
}
QUESTIONS = tuple((name, FORM.format(ask=ask)) for name, ask in ASKS.items())
"""(category, question). The first is asked where nothing says which one fits."""

SORT = """Here is a request:
{prompt}

Which of these is it about: {categories}? Answer with one word."""

LIMITS = Limits(max_length=1024)
YES, NO = ("Yes", " Yes"), ("No", " No")


@dataclass(frozen=True)
class Classifier:
    """P(yes) against P(no) over their spellings, by categories of prompts.

    The category is ``by`` in the prompt's meta (a column of that name in the data); where it has none, with ``sort``
    the model itself is asked which one it is, else the first question is used. Both sides of a question keep the same
    tokens of a prompt that is cut (``limits``), which loses its beginning. Where neither word has any probability, the
    judge abstains.
    """

    model: Any = None
    questions: tuple[tuple[str, str], ...] = QUESTIONS
    yes: tuple[str, ...] = YES
    no: tuple[str, ...] = NO
    by: str = "category"
    sort: bool = False
    chat: bool | None = None
    name: str = "score"
    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        words = (*self.yes, *self.no)
        clash = [f"{a!r} and {b!r}" for a, b in permutations(words, 2) if b.startswith(a)]
        if clash or not (self.yes and self.no and all(words)):
            what = f"{clash[0]} begin alike" if clash else "a side without words"
            raise InputError(
                f"yes and no cannot be told apart: {what}",
                remedy="give words of which none is another's beginning, or its probability would count twice",
            )

    def spoken_by(self, policy: Any) -> Classifier:
        """The judge with this policy as its model, where it has none of its own."""
        return replace(self, model=policy) if self.model is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        texts = dict(self.questions)
        asked: list[Prompt] = [
            question(texts[sort], slate, i, chat=self.chat)
            for slate, sort in zip(slates, self._categories(slates), strict=True)
            for i in range(len(slate))
        ]
        told = iter(option_logps(self.model, asked, (*self.yes, *self.no), self.limits))
        return [{self.name: scores([self.share(next(told)) for _ in range(len(slate))])} for slate in slates]

    def share(self, logps: Sequence[float]) -> float | None:
        """s from the log-probabilities of all spellings, those of yes first.

        >>> judge = Classifier(yes=("a", "b"), no=("c",))
        >>> round(judge.share([math.log(0.2), math.log(0.1), math.log(0.1)]), 6)
        0.75
        """
        yes, no = (_log_of_sum(part) for part in (logps[: len(self.yes)], logps[len(self.yes) :]))
        return None if max(yes, no) == -math.inf else yes_share(yes, no)

    def _categories(self, slates: Sequence[Slate]) -> list[str]:
        """The category of every slate."""
        names = [name for name, _ in self.questions]
        found = [_said(slate, self.by) for slate in slates]
        open_ = [i for i, name in enumerate(found) if name not in names]
        if not self.sort or len(names) == 1 or not open_:
            return [name if name in names else names[0] for name in found]
        asks = [
            filled(SORT, slate, {"prompt": prompt_text(slate.prompt), "categories": ", ".join(names)}, self.chat)
            for slate in (slates[i] for i in open_)
        ]
        for i, logps in zip(open_, option_logps(self.model, asks, names, self.limits), strict=True):
            found[i] = names[max(range(len(names)), key=lambda n: (logps[n], -n))]
        return found


@dataclass(frozen=True)
class Stepped:
    """A score between 0 and 1 on a scale of so many steps, 1 the lowest: what a rubric of whole points makes of it.

    >>> from prefine.judging.base import Scored
    >>> from prefine.slate import Candidate
    >>> slate = Slate("p", (Candidate("a"), Candidate("b"), Candidate("c")))
    >>> Stepped(Scored(lambda slate: [0.5, 0.6, None]), 5)([slate])[0]["score"].values
    (3.0, 3.0, None)
    """

    judge: Judge
    steps: int = 5
    name: str = "score"

    def spoken_by(self, policy: Any) -> Stepped:
        """For judges that are the policy itself."""
        bind = getattr(self.judge, "spoken_by", None)
        return self if bind is None else replace(self, judge=bind(policy))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [{self.name: scores([self._step(v) for v in only_scores(columns)])} for columns in self.judge(slates)]

    def _step(self, value: float | None) -> float | None:
        return None if value is None else float(round(1 + (self.steps - 1) * value))


def classifier(
    model: Any = None,
    question: str = "",
    yes: str | tuple[str, ...] = YES,
    no: str | tuple[str, ...] = NO,
    by: str = "category",
    sort: bool = False,
    chat: bool | None = None,
    name: str = "score",
) -> Classifier:
    """The classifier that a model is (None: the policy of the moment). ``question``: one for all, with {prompt} and
    {response}, instead of one a category."""
    if question and "{response}" not in question:
        raise InputError(f"the question {question!r} does not show the response", remedy="write {response} in it")
    questions = (("question", question),) if question else QUESTIONS
    words = ((yes,) if isinstance(yes, str) else tuple(yes), (no,) if isinstance(no, str) else tuple(no))
    return Classifier(model, questions, *words, by, sort, chat, name)


def stepped(judge: Judge, steps: int = 5) -> Stepped:
    """A judge of scores from 0 to 1, in whole points."""
    at_least(2, steps=steps)
    return Stepped(judge, steps)


def two_sided(contrasts: Iterable[Contrast]) -> Iterator[Slate]:
    """Pairs as slates of two without any feedback, the chosen first: what a judge is tried on."""
    for contrast in contrasts:
        texts = [contrast.response(contrast.roles.index(role)) for role in (CHOSEN, REJECTED)]
        yield Slate(contrast.prompt(0), tuple(map(Candidate, texts)), {}, contrast.slate.meta)


def agreement(judged: Iterable[Slate], by: str = "score") -> dict[str, float]:
    """Of slates of two, the better first: the share a judge ranks strictly so, and the shares it ties or abstains on
    (neither is right).

    >>> from prefine.slate import Candidate
    >>> two = Slate("p", (Candidate("a"), Candidate("b")))
    >>> rows = [two.with_feedback("score", scores(v)) for v in ([1.0, 0.0], [0.5, 0.5], [None, 1.0], [0.0, 1.0])]
    >>> agreement(rows)
    {'accuracy': 0.25, 'ties': 0.25, 'abstained': 0.25}
    """
    said = [slate.column(by)[:2] for slate in judged]
    known = [(a, b) for a, b in said if a is not None and b is not None]
    count = max(1, len(said))
    return {
        "accuracy": sum(a > b for a, b in known) / count,
        "ties": sum(a == b for a, b in known) / count,
        "abstained": (len(said) - len(known)) / count,
    }


def _said(slate: Slate, by: str) -> str:
    return str(slate.meta.get(by, slate.meta.get("extra", {}).get(by, "")))


def _log_of_sum(logps: Sequence[float]) -> float:
    top = max(logps)
    return top if top == -math.inf else top + math.log(sum(math.exp(x - top) for x in logps))
