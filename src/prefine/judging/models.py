"""Judges that are models of ours: log-ratios of two policies, reward models, process reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from prefine.artifacts import PolicyHandle
from prefine.errors import InputError
from prefine.judging.checks import LENGTHS
from prefine.policies.base import Limits
from prefine.registry import one_of
from prefine.slate import Candidate, Contrast, Feedback, Slate, group, scores

Columns = Mapping[str, Feedback]

NO_LIMITS = Limits()


class Loadable(Protocol):
    """A handle: ``load()`` gives the live policy."""

    def load(self) -> Any: ...


@dataclass(frozen=True)
class OnDisk:
    """A handle on a model directory outside a run. Its key is made of what is in the directory."""

    path: Path

    @property
    def key(self) -> str:
        from prefine.policies import fingerprint_policy

        return str(fingerprint_policy(self.path))

    def load(self) -> Any:
        return PolicyHandle(self.key, self.path).load()


@dataclass(frozen=True)
class ImplicitReward:
    """log pi(y|x) - log ref(y|x) - penalty * length: what a policy trained by DPO rewards (arXiv 2406.09760).

    Token sums; DPO's beta is left out. Lengths in characters, words or tokens.
    """

    policy: Loadable
    reference: Loadable
    length_penalty: float = 0.0
    unit: str = "characters"
    name: str = "implicit"
    limits: Limits = NO_LIMITS

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        from prefine.engine.score import score_contrasts

        groups = [everyone(slate) for slate in slates if len(slate)]
        ours, theirs = (score_contrasts(live(handle), groups, self.limits) for handle in (self.policy, self.reference))
        ratios = iter(
            [
                [whole(a) - whole(b) for a, b in zip(of_ours, of_theirs, strict=True)]
                for of_ours, of_theirs in zip(ours, theirs, strict=True)
            ]
        )
        return [{self.name: scores(self._rewards(slate, next(ratios) if len(slate) else []))} for slate in slates]

    def _rewards(self, slate: Slate, ratios: Sequence[float]) -> list[float]:
        measure = one_of("unit", self.unit, LENGTHS)
        return [r - self.length_penalty * measure(slate, i) for i, r in enumerate(ratios)]


def live(model: Any) -> Any:
    """A policy as it is, a handle loaded."""
    return model if hasattr(model, "sample") else model.load()


def speaker(model: Any) -> Any:
    """The same for a judge that may be the policy of the moment, where a recipe has one."""
    if model is None:
        raise InputError(
            "this judge has no model, and the recipe no policy that could judge itself",
            remedy="name the model that judges, or use a recipe that judges its own samples",
        )
    return live(model)


def room_for(model: Any, wanted: int) -> int:
    """How many tokens a verdict may have: as many as wanted, or half the window of a model that has so small a one."""
    window = getattr(getattr(model, "codec", None), "window", None)
    return wanted if window is None else max(1, min(wanted, window // 2))


def whole(logp_T: np.ndarray) -> float:
    """Log-probability of a response, added up in float64."""
    return float(logp_T.sum(dtype=np.float64))


def everyone(slate: Slate) -> Contrast:
    """All candidates of a slate, without sides: what is only to be scored."""
    return group(Slate(slate.prompt, slate.candidates), range(len(slate)), [0] * len(slate))


@dataclass(frozen=True)
class RewardJudge:
    """What a reward model says of every response."""

    model: Loadable
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        model = live(self.model)
        if not hasattr(model, "reward"):
            raise InputError(
                f"a policy of kind {getattr(model, 'kind', '?')!r} gives no rewards",
                remedy="fit a reward model first (`prefine run reward-model ...`), or name one",
            )
        return [{self.name: scores([float(r) for r in rewards])} for rewards in model.reward(slates)]


AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min, "mean": fmean, "last": lambda steps: steps[-1], "best": max,
}  # fmt: skip
"""How the scores of the steps of a response become one."""


@dataclass(frozen=True)
class ProcessReward:
    """A reward model asked after every step of a response: columns "steps" and their aggregate.

    Steps are the parts between separators, a separator belonging to the step it ends; the score of step t is
    the model's reward of the response up to and including it.
    """

    model: Loadable
    aggregate: Callable[[Sequence[float]], float] = min
    separator: str = "\n"
    name: str = "score"

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        model = live(self.model)
        # One slate a prompt with every prefix of every response, so that the model can batch them.
        prefixes = [[prefixes_of(s.response(i), self.separator) for i in range(len(s))] for s in slates]
        # "length": a step is not the end of the response, so no end token follows it.
        spread = [
            Slate(slate.prompt, tuple(Candidate(text, stop="length") for response in rows for text in response))
            for slate, rows in zip(slates, prefixes, strict=True)
        ]
        return [
            self._columns(rows, [float(r) for r in rewards])
            for rows, rewards in zip(prefixes, model.reward(spread), strict=True)
        ]

    def _columns(self, rows: Sequence[Sequence[str]], rewards: Sequence[float]) -> Columns:
        at, steps = 0, []
        for row in rows:
            steps.append(tuple(rewards[at : at + len(row)]))
            at += len(row)
        return {
            "steps": Feedback("steps", tuple(steps)),
            self.name: scores([self.aggregate(s) for s in steps]),
        }


def steps_of(text: str, separator: str) -> list[str]:
    """The steps of a text; joined they are the text. There is always at least one.

    >>> steps_of("a=1\\nb=2\\n\\nc", "\\n")
    ['a=1\\n', 'b=2\\n\\n', 'c']
    """
    steps: list[str] = []
    for part in text.split(separator):
        if steps:
            steps[-1] += separator
        if steps and (not part or not steps[-1].strip(separator)):
            steps[-1] += part  # blank parts belong to the step before them, or to the first one
        else:
            steps.append(part)
    return steps


def prefixes_of(text: str, separator: str) -> list[str]:
    """The text up to and including its first, second, ... step.

    >>> prefixes_of("a\\nb", "\\n")
    ['a\\n', 'a\\nb']
    """
    steps = steps_of(text, separator)
    return ["".join(steps[: n + 1]) for n in range(len(steps))]


def implicit_reward(
    policy: Loadable,
    reference: Loadable,
    length_penalty: float = 0.0,
    unit: str = "characters",
    name: str = "implicit",
) -> ImplicitReward:
    """The judge that two policies make."""
    return ImplicitReward(policy, reference, length_penalty, unit, name)


def reward_model(handle: Loadable, name: str = "score") -> RewardJudge:
    """The judge that a reward model is."""
    return RewardJudge(handle, name)


def process_reward(
    handle: Loadable, aggregate: str = "min", separator: str = "\n", name: str = "score"
) -> ProcessReward:
    """The judge that a reward model of steps is."""
    return ProcessReward(handle, one_of("aggregate", aggregate, AGGREGATES), separator, name)
