"""Several pairs a prompt, and stages that go from clear to close ones: curricula over ranked lists."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from prefine.curating.curriculum import Curriculum, Valued
from prefine.curating.reading import best, column, pair_of
from prefine.errors import InputError
from prefine.slate import Contrast, Slate


@dataclass(frozen=True)
class BestAgainstEach:
    """The best response of a slate against every worse one, the worst first (of equals the later).

    Values: ``gap`` of the scores, and ``rank_gap``, how many responses are better than the rejected one.
    """

    by: str = "score"

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            values = column(slate, self.by)
            if not values:
                continue
            top = best(values)
            for worse in sorted((i for i in values if values[i] < values[top]), key=lambda i: (values[i], -i)):
                better = float(sum(v > values[worse] for v in values.values()))
                yield pair_of(slate, top, worse, gap=values[top] - values[worse], rank_gap=better)


def best_against_each(by: str = "score") -> BestAgainstEach:
    """The best against each of the others that it beats.

    >>> from prefine.slate import Candidate, scores
    >>> slate = Slate("?", tuple(map(Candidate, "abcd"))).with_feedback("score", scores([5.0, 4.0, 4.0, 2.0]))
    >>> [(c.response(1), c.values["gap"]) for c in best_against_each()([slate], random.Random(0))]
    [('d', 3.0), ('c', 1.0), ('b', 1.0)]
    """
    return BestAgainstEach(by)


def with_likelihood_gap(
    pairs: Iterable[Contrast], logps: Iterable[list[np.ndarray]], rng: random.Random
) -> Iterator[Contrast]:
    """Pairs with the value ``likelihood_gap``: log-probability of the chosen less that of the rejected under the
    policy whose log-probabilities are given, token sums. A large one is easy: the policy agrees already."""
    for contrast, (chosen, rejected) in zip(pairs, logps, strict=True):
        gap = float(chosen.sum(dtype=np.float64) - rejected.sum(dtype=np.float64))
        yield replace(contrast, values={**contrast.values, "likelihood_gap": gap})


@dataclass(frozen=True)
class LocalStage:
    """The i-th of so many stages, cut within every prompt: its clearest pair in the first, its closest in the last.

    Of n pairs the one at place k goes to stage k * stages // n: one each where n is the number of stages.
    """

    i: int
    stages: int
    by: str = "gap"
    hard_first: bool = False

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        prompts: dict[str, list[Contrast]] = {}
        for contrast in pairs:
            prompts.setdefault(contrast.slate.id, []).append(contrast)
        easy = Valued(self.by, -1.0)
        stage = self.stages - 1 - self.i if self.hard_first else self.i
        found = False
        for same in prompts.values():
            ordered = sorted(same, key=easy)
            for place, contrast in enumerate(ordered):
                if place * self.stages // len(ordered) == stage:
                    found = True
                    yield contrast
        if not found and prompts:
            most = max(map(len, prompts.values()))
            raise InputError(
                f"stage {self.i + 1} of {self.stages} is empty: no prompt has more than {most} "
                f"pair{'s' if most > 1 else ''} to put in order",
                remedy=f"give data with {self.stages + 1} responses a prompt, fewer --stages, or --order global, "
                "which puts the pairs of all prompts in one order",
            )


def local_stage(i: int, stages: int, by: str = "gap", hard_first: bool = False) -> LocalStage:
    """A stage of a curriculum within every prompt, from clear to close by a value of the pairs (or the reverse)."""
    return LocalStage(i, stages, by, hard_first)


def global_stage(i: int, stages: int, by: str = "gap", hard_first: bool = False):  # type: ignore[no-untyped-def]
    """A stage of a curriculum over the pairs of all prompts."""
    return Curriculum(Valued(by, -1.0), stages, hard_first, shuffles=True).stage(i)
