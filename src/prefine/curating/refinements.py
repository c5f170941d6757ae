"""Pairs as lessons in refining: the same two responses again, under a prompt that shows one of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from prefine.curating.reading import role_of
from prefine.policies.refining import REFINE, refine_prompt, showing
from prefine.slate import CHOSEN, REJECTED, Candidate, Contrast, Slate, pair, point


@dataclass(frozen=True)
class WithRefinements:
    """Every pair, and the pair under (x, y_l) and under (x, y_w). Values: ``refinement``, 1 for the latter two, and
    ``weight`` 3, so that a mean over all contrasts is the sum of the three means."""

    template: str = REFINE

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in pairs:
            w, l = sides(contrast)
            slate = contrast.slate
            yield pair(Slate(slate.prompt, (w, l), {}, slate.meta), 0, 1, refinement=0.0, weight=3.0)
            for shown in (l, w):
                both = tuple(again(slate, one, shown, self.template) for one in (w, l))
                yield pair(Slate(slate.prompt, both, {}, slate.meta), 0, 1, refinement=1.0, weight=3.0)


@dataclass(frozen=True)
class RefinementDemos:
    """The chosen as an answer to x, and to (x, y_l): fine-tuning that lets a model know what refining is."""

    template: str = REFINE

    def __call__(self, pairs: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in pairs:
            w, l = sides(contrast)
            slate = contrast.slate
            two = Slate(slate.prompt, (w, again(slate, w, l, self.template)), {}, slate.meta)
            yield point(two, 0, True)
            yield point(two, 1, True)


def last_over_first(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """The last turn's answer over the first one's, wherever they differ: no judge is asked."""
    for slate in slates:
        turns = [i for i in slate.leaves() if role_of(slate, i) in ("current", "refined")]
        if len(turns) > 1 and slate.response(turns[-1]) != slate.response(turns[0]):
            yield pair(slate, turns[-1], turns[0])


def sides(contrast: Contrast) -> tuple[Candidate, Candidate]:
    """(chosen, rejected) as answers to the slate's prompt, without ancestors."""
    w, l = (contrast.members[contrast.roles.index(role)] for role in (CHOSEN, REJECTED))
    return _alone(contrast.slate, w), _alone(contrast.slate, l)


def again(slate: Slate, said: Candidate, shown: Candidate, template: str) -> Candidate:
    """A response as the answer to the prompt that shows another one."""
    return replace(said, prompt=refine_prompt(slate.prompt, [shown.text], template), logps=None)


def _alone(slate: Slate, index: int) -> Candidate:
    candidate = slate.candidates[index]
    return candidate if candidate.parent is None else Candidate(slate.response(index), stop=candidate.stop)


def with_refinements(template: str = REFINE) -> WithRefinements:
    """Pairs, each with two lessons in refining, for ``objectives.evolve``."""
    return WithRefinements(showing(template))


def refinement_demos(template: str = REFINE) -> RefinementDemos:
    """Demonstrations of answering and of refining, from pairs."""
    return RefinementDemos(showing(template))
