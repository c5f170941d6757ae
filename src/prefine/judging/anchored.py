"""Judges that are shown one good answer of each prompt first: the anchor, in the slate's ``meta``.

    Anchored   any other judge, asked about the prompt with the anchor below it
    Likeness   how like the anchor a response is: the cosine of their vectors

An anchor is one answer somebody trusts (a teacher's, a person's). A small model that cannot tell good answers from bad
ones by itself can often tell which of two is closer to one that is good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefine.curating.anchors import anchor_of
from prefine.curating.vectors import STATES, Vectors, units, vectors
from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.judging.language import LanguageJudge, SelfJudge, YesProbability, language_judge, yes_judge
from prefine.registry import one_of
from prefine.slate import Candidate, Feedback, Slate, prompt_text, scores

Columns = Mapping[str, Feedback]

SHOWN = """{prompt}

A good answer to this, for comparison:
{anchor}"""

AS_GOOD = """{prompt}

Another answer:
{response}

Is the other answer as good as the one for comparison? Answer Yes or No.
"""
"""A template for ``judging.yes_judge`` behind ``Anchored``."""


@dataclass(frozen=True)
class Anchored:
    """A judge that sees the anchor below the prompt. Slates without an anchor are refused.

    >>> from prefine.judging.base import Scored
    >>> slate = Slate("2+2=", (Candidate("4"),), meta={"anchor": "It is 4."})
    >>> Anchored(Scored(lambda s: [float("It is 4." in s.prompt)]))([slate])[0]["score"].values
    (1.0,)
    """

    judge: Judge
    shown: str = SHOWN
    column: str = "anchor"

    def spoken_by(self, policy: Any) -> Anchored:
        """With this policy as the speaker of the judge behind it."""
        return replace(self, judge=spoken_by(self.judge, policy))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return list(self.judge([self._beside(slate) for slate in slates]))

    def _beside(self, slate: Slate) -> Slate:
        said = {"prompt": prompt_text(slate.prompt), "anchor": anchor_of(slate, self.column).strip()}
        parts = self.shown.split("{prompt}", 1)
        text = said["prompt"].join(part.replace("{anchor}", said["anchor"], 1) for part in parts)
        prompt = text if isinstance(slate.prompt, str) else ({"role": "user", "content": text},)
        return replace(slate, prompt=prompt, candidates=tuple(replace(c, prompt=None) for c in slate.candidates))


@dataclass(frozen=True)
class Likeness:
    """max(0, cosine) of a response's vector and the anchor's; 1 is the anchor itself. No prompt, no question."""

    vectors: Vectors | None
    """None: the hidden states of ``policy``."""
    policy: Any = None
    column: str = "anchor"
    name: str = "score"

    def spoken_by(self, policy: Any) -> Likeness:
        """With the hidden states of this policy, where it is to be those of a policy."""
        return replace(self, policy=policy) if self.vectors is None and self.policy is None else self

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        wide = [Slate(s.prompt, (*s.candidates, Candidate(anchor_of(s, self.column))), meta=s.meta) for s in slates]
        found: list[Columns] = []
        for x_KD in self._vectors(wide):
            unit_KD = units(x_KD)
            found.append({self.name: scores([max(0.0, float(v)) for v in unit_KD[:-1] @ unit_KD[-1]])})
        return found

    def _vectors(self, slates: Sequence[Slate]) -> list[np.ndarray]:
        if self.vectors is not None:
            return [self.vectors(slate) for slate in slates]
        from prefine.selecting.features import Features

        if self.policy is None:
            raise InputError("likeness by hidden states needs a policy", remedy="use vectors=words, or name a model")
        return [np.asarray(columns["features"].values) for columns in Features(self.policy)(slates)]


def likeness(by: str = "words") -> Likeness:
    """How like the anchor, by "words", by "states" (the speaking policy's hidden states), or by an encoder."""
    return Likeness(None if by == STATES else vectors(by))


def as_good_as(asked: str = "yes", model: Any = None) -> Anchored:
    """A model that is shown the anchor and asked: "yes", the probability that a response is as good; or "grade".

    ``model=None``: the policy that a recipe lets speak.
    """
    made: Mapping[str, LanguageJudge | YesProbability] = {
        "yes": yes_judge(model, AS_GOOD), "grade": language_judge(model),
    }  # fmt: skip
    judge = one_of("asked", asked, made)
    return Anchored(SelfJudge(judge) if model is None else judge)
