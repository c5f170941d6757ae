"""The work of a run's verbs as values: what to do and with what, ready to be sent to another process.

Everything a piece of work needs is in it or at a path it names. It is pure: the same rows give the same bits in
whatever process and order, so a part that was lost is simply done again.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefine.artifacts import Contrasts, Logps, PolicyHandle
from prefine.cluster import Tell
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.base import Judge
from prefine.policies.base import Limits, Sampling
from prefine.policies.samplers import sampler_of
from prefine.slate import Contrast, Feedback, Slate, slate_of

if TYPE_CHECKING:
    from prefine.engine.reference import Loaded, Moving
    from prefine.engine.settings import TrainSettings
    from prefine.engine.train import TrainResult
    from prefine.objectives.scores import Objective

Line = dict[str, Any]
"""A slate as it is written down."""


@dataclass(frozen=True)
class Sampled:
    """Slates with n more candidates each. The seed of a prompt comes from the key and the prompt's place."""

    policy: PolicyHandle
    sampling: Sampling
    key: str
    origin: Mapping[str, Any]

    def __call__(self, rows: list[Slate], first: int) -> list[Line]:
        seeds = [seed_of(self.key, first + i) for i in range(len(rows))]
        sampler = sampler_of(self.policy, self.sampling.sampler)
        drawn = sampler.sample([s.prompt for s in rows], self.sampling, seeds)
        lines = []
        for slate, candidates in zip(rows, drawn, strict=True):
            named = [dataclasses.replace(c, origin={**c.origin, **self.origin}) for c in candidates]
            lines.append(slate.with_candidates(named).to_json())
        return lines


@dataclass(frozen=True)
class Judged:
    """Slates, or contrasts over slates, with the judge's columns added."""

    judge: Judge

    def __call__(self, rows: list[Slate] | list[Contrast], first: int) -> list[Line]:
        slates = [slate_of(row) for row in rows]
        columns = self.judge(slates)
        if len(columns) != len(rows):
            raise InputError(
                f"the judge gave feedback on {len(columns)} slates of {len(rows)}",
                remedy="a judge returns one mapping of columns for every slate it is given, in order",
            )
        lines = []
        for row, slate, found in zip(rows, slates, columns, strict=True):
            for name, column in found.items():
                slate = slate.with_feedback(name, _finite(slate, name, column))
            lines.append((dataclasses.replace(row, slate=slate) if isinstance(row, Contrast) else slate).to_json())
        return lines


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of the response tokens of contrasts: contrast -> member -> (T,)."""

    policy: PolicyHandle
    limits: Limits
    tokens: int | None
    precision: str

    def __call__(self, rows: list[Contrast], first: int) -> list[list[np.ndarray]]:
        from prefine.engine.score import score_contrasts

        return score_contrasts(self.policy.load(), rows, self.limits, self.tokens, self.precision)


@dataclass(frozen=True)
class Trained:
    """A policy trained from another and saved under ``out``, by all processes that call this together."""

    policy: PolicyHandle
    adapter: Any
    contrasts: Contrasts
    objective: Objective
    references: Mapping[str, Logps | Moving | Loaded]
    settings: TrainSettings
    checkpoints: Path
    out: Path

    def __call__(self, tell: Tell) -> TrainResult:
        from prefine.engine import processes
        from prefine.engine.learner import save_modules
        from prefine.engine.reference import Loaded
        from prefine.engine.train import train
        from prefine.policies import with_adapter

        def fresh(handle: PolicyHandle) -> Any:
            return with_adapter(handle.fresh(), self.adapter, seed=self.settings.seed)

        def begun(reference: Logps | Moving | Loaded) -> Any:
            if isinstance(reference, Logps):
                return reference
            if isinstance(reference, Loaded):
                return reference.policy.fresh()
            elsewhere = reference.start.key != self.policy.key
            return dataclasses.replace(reference, start=partial(fresh, reference.start) if elsewhere else None)

        learner, objective = fresh(self.policy), copy.deepcopy(self.objective)  # which may be trained along
        references = {name: begun(reference) for name, reference in self.references.items()}
        result = train(
            learner, self.contrasts, objective, references=references, settings=self.settings,
            checkpoint_dir=self.checkpoints, progress=tell,
        )  # fmt: skip
        if processes.rank() == 0:
            learner.save(self.out)
            save_modules(objective, self.out, result.readings)
        return result


def _finite(slate: Slate, name: str, column: Feedback) -> Feedback:
    if column.kind == "score" and any(v is not None and not np.isfinite(v) for v in column.values):
        raise InputError(
            f"judge column {name!r} has a score that is not a finite number on slate {slate.id!r}",
            remedy="let the judge give None where it cannot say",
        )
    return column
