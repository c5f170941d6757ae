"""Pairs and labelled steps for a generator and a process reward model that improve each other (arXiv 2503.12854)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

from prefine.curating.reading import column
from prefine.slate import Candidate, Contrast, Slate, pair, point


@dataclass(frozen=True)
class ProcessPairs:
    """Outcome first, process second: the right answer with the best process against the wrong (or malformed)
    one with the worst. A slate where all are right, or none is, gives nothing."""

    outcome: str = "verified"
    process: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            verdicts, process = column(slate, self.outcome), column(slate, self.process)
            right = [i for i in process if verdicts.get(i, 0) > 0]
            wrong = [i for i in process if i in verdicts and verdicts[i] <= 0]
            if right and wrong:
                yield pair(slate, max(right, key=lambda i: process[i]), min(wrong, key=lambda i: process[i]))


@dataclass(frozen=True)
class StepPoints:
    """Every step of a response as a labelled point: the response up to and including it.

    All steps of right answers are good. Of wrong ones only the low-valued steps are bad, those below the mean
    of the response's own step values (column "steps"; all of them while there is no such column): a wrong
    answer usually begins well.
    """

    outcome: str = "verified"
    steps: str = "steps"
    separator: str = "\n"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        from prefine.judging.models import prefixes_of

        for slate in slates:
            for i, verdict in column(slate, self.outcome).items():
                prefixes = prefixes_of(slate.response(i), self.separator)
                values = slate.feedback[self.steps].values[i] if self.steps in slate.feedback else None
                cut = fmean(values) if values else 0.0
                for at, text in enumerate(prefixes):
                    if verdict > 0 or not values or values[at] <= cut:
                        # "length": a step is not the end of the response, and is judged without an end token too.
                        step = Candidate(text, stop="length")
                        yield point(Slate(slate.prompt, (step,), meta=slate.meta), 0, verdict > 0)


def process_pairs(outcome: str = "verified", process: str = "score") -> ProcessPairs:
    """Right with the best process against wrong with the worst."""
    return ProcessPairs(outcome, process)


def step_points(outcome: str = "verified", separator: str = "\n") -> StepPoints:
    """What a process reward model learns from when only outcomes are known."""
    return StepPoints(outcome, separator=separator)
