"""Samples with rewards, for policy gradients: whole groups as they were drawn, and moments measured over a round."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from prefine.curating.reading import column
from prefine.registry import at_least
from prefine.slate import OTHER, Contrast, Slate, group

if TYPE_CHECKING:
    from torch import Tensor

    from prefine.objectives.scores import Scores

CHUNK = 256


@dataclass(frozen=True)
class Rollouts:
    """See ``rollouts``."""

    by: str = "score"
    unfinished: float | None = None
    gain: float = 1.0
    bias: float = 0.0
    fewest: int = 1

    def __call__(self, slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
        for slate in slates:
            reward = {i: self.gain * self._score(slate, i, v) + self.bias for i, v in column(slate, self.by).items()}
            if len(reward) >= self.fewest:
                yield group(slate, list(reward), [OTHER] * len(reward), reward=tuple(reward.values()))

    def _score(self, slate: Slate, index: int, score: float) -> float:
        cut = slate.candidates[index].stop == "length"
        return self.unfinished if cut and self.unfinished is not None else score


def rollouts(
    by: str = "score", unfinished: float | None = None, gain: float = 1.0, bias: float = 0.0, fewest: int = 1
) -> Rollouts:
    """All judged responses of a prompt, without sides, with the value "reward" of each: gain * score + bias.

    ``unfinished``: the score of a response that was cut before its end, whatever the judge says (-10 in
    arXiv 2406.09279). ``fewest``: prompts with fewer responses are left out; 2 where rewards are compared within one.

    >>> from prefine.slate import Candidate, scores
    >>> slate = Slate("?", (Candidate("a", stop="end"), Candidate("b", stop="length")))
    >>> judged = slate.with_feedback("score", scores([2.0, 5.0]))
    >>> next(rollouts(unfinished=-10.0)([judged], random.Random(0))).values["reward"]
    (2.0, -10.0)
    """
    at_least(1, fewest=fewest)
    return Rollouts(by, unfinished, gain, bias, fewest)


@dataclass(frozen=True)
class WithMoments:
    """See ``with_moments``."""

    of: Callable[[Scores], Tensor]
    names: tuple[str, ...]
    name: str = "advantage"

    def __call__(self, contrasts: Iterable[Contrast], *stored: Any) -> Iterator[Contrast]:
        *logps, _ = stored
        kept: list[Contrast] = []
        parts: list[np.ndarray] = []
        rows = zip(contrasts, *logps, strict=True)
        while chunk := list(islice(rows, CHUNK)):
            kept += [contrast for contrast, *_ in chunk]
            scores = stored_scores(chunk, self.names)
            parts.append(self.of(scores)[scores.mask_NT > 0].numpy())
        x = np.concatenate(parts) if parts else np.zeros(0)
        mean = float(x.mean()) if len(x) else 0.0
        variance = float(x.var(ddof=1)) if len(x) > 1 else 0.0
        for contrast in kept:
            moments = {f"{self.name}_mean": mean, f"{self.name}_variance": variance}
            yield replace(contrast, values={**contrast.values, **moments})


def with_moments(of: Callable[[Scores], Tensor], names: Sequence[str], name: str = "advantage") -> WithMoments:
    """Contrasts with the mean and the variance, over the tokens of all of them, of a function of stored numbers.

    Called with the contrasts and the log-probabilities of the references ``names``, in this order: what a step must be
    whitened by is known before it, over the whole round, so that a step can be cut as memory asks. Every token of a
    response counts here.
    """
    return WithMoments(of, tuple(names), name)


def stored_scores(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> Scores:
    """Scores of contrasts from stored numbers alone, in float64: (contrast, of each reference [array a member])."""
    import torch

    from prefine.objectives.scores import Scores

    lengths = [len(array) for row in rows for array in row[1]]
    shape = (len(lengths), max(lengths, default=0))
    mask_NT = torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]
    references = {}
    for place, name in enumerate(names):
        filled = np.zeros(shape)
        for n, array in enumerate(array for row in rows for array in row[1 + place]):
            filled[n, : len(array)] = array
        references[name] = torch.from_numpy(filled)
    contrasts = [row[0] for row in rows]
    values = {
        name: torch.tensor([v for c in contrasts for v in spread(c.values[name])], dtype=torch.float64)
        for name in contrasts[0].values
    }
    sizes = torch.tensor([len(c.members) for c in contrasts])
    return Scores(
        logp_NT=torch.zeros(shape, dtype=torch.float64),
        mask_NT=mask_NT.double(),
        role_N=torch.tensor([role for c in contrasts for role in c.roles]),
        group_N=torch.arange(len(contrasts)).repeat_interleave(sizes),
        references=references,
        values=values,
    )


def spread(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
