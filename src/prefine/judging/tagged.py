"""Verdicts on responses that think and answer between tags: right, wrong, unreadable, out of form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefine.judging.answers import same
from prefine.slate import Feedback, Slate, scores

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
RIGHT, WRONG, UNREADABLE, OUT_OF_FORM = 1.0, 0.0, -1.0, -2.0


@dataclass(frozen=True)
class Tagged:
    """1 right, 0 wrong, -1 an empty answer, -2 where the tags are not there, each once and in order.

    The four preference levels of rule-based reasoning data (TRPA, arXiv 2504.04524), best first. The gold answer is
    the prompt's ``meta[gold]``; without one the judge abstains.

    >>> from prefine.slate import Candidate
    >>> told = [f"<think>2 and 2</think><answer>{a}</answer>" for a in ("4", "5", "")] + ["4"]
    >>> Tagged()([Slate("2+2=", tuple(map(Candidate, told)), meta={"answer": "4"})])[0]["verified"].values
    (1.0, 0.0, -1.0, -2.0)
    """

    equal: Callable[[str, str], bool] = same
    gold: str = "answer"
    name: str = "verified"

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        return [{self.name: scores([self._verdict(s, i) for i in range(len(s))])} for s in slates]

    def _verdict(self, slate: Slate, index: int) -> float | None:
        gold = slate.meta.get(self.gold)
        if gold is None:
            return None
        answer = tagged_answer(slate.response(index))
        if answer is None:
            return OUT_OF_FORM
        return UNREADABLE if not answer else RIGHT if self.equal(answer, str(gold)) else WRONG


def tagged_answer(response: str) -> str | None:
    """What stands between the answer tags; None unless every tag is there once, in order.

    >>> tagged_answer("<think>a</think> <answer> 7 </answer>"), tagged_answer("<answer>7</answer>")
    ('7', None)
    """
    found = re.findall("|".join(map(re.escape, TAGS)), response)
    if tuple(found) != TAGS:
        return None
    return response.split("<answer>")[1].split("</answer>")[0].strip()
