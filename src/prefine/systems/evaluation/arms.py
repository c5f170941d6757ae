"""Arms of a comparison of offline and online training: what is crossed, how each arm is trained, what it is asked."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefine import judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.curating.levels import Saying, Turned, counted
from prefine.curating.tags import said
from prefine.errors import InputError
from prefine.evaluation import drawn, score_column
from prefine.factors import Levels
from prefine.run import Run
from prefine.systems.blocks.grpo import grpo
from prefine.systems.blocks.ppo import ppo


@dataclass(frozen=True)
class Plan:
    """What is crossed, and with which settings."""

    algorithms: tuple[str, ...] = ("dpo", "ppo")
    sizes: tuple[float | str, ...] = (1.0, 0.5)
    rounds: int = 20
    beta: float = 0.1
    kl_coef: float = 0.05
    temperature: float = 0.7
    unfinished: float = -10.0
    dpo: Mapping[str, Any] | None = None
    reward: Mapping[str, Any] | None = None
    value_lr: float | None = None
    n: int = 1

    def arms(
        self, run: Run, policy: PolicyHandle, data: Mapping[str, Contrasts], prompts: Mapping[str, Slates]
    ) -> Iterator[tuple[Levels, PolicyHandle]]:
        """Levels and the policy trained at them: all of data x algorithm x size, and other prompts at the first two."""
        online = [name for name in self.algorithms if name != "dpo"]
        for name, lessons in data.items():
            if "dpo" in self.algorithms:
                settings = {"schedule": "linear", "warmup": 0.1, **(self.dpo or {})}
                yield (
                    {"data": name, "algorithm": "dpo"},
                    run.train(policy, lessons, objective=objectives.dpo(self.beta), **settings),
                )
            for size in self.sizes if online else ():
                model = self.reward_model(run, policy, size, lessons)
                first = (name, size) == (next(iter(data)), self.sizes[0])
                for which, some in prompts.items():
                    for algorithm in online if first or which in WHOLE else ():
                        levels = {"data": name, "algorithm": algorithm, "reward_model": str(size), "prompts": which}
                        yield levels, ONLINE[algorithm](self, run, policy, some, model)

    def reward_model(self, run: Run, policy: PolicyHandle, size: float | str, lessons: Contrasts) -> PolicyHandle:
        """Of the policy's first layers, or another model's backbone; how it ranks held-out pairs is noted."""
        settings = {"schedule": "linear", "warmup": 0.03, **(self.reward or {})}
        base, depth = (policy, size) if isinstance(size, float) else (run.policy(size), 1.0)
        model = run.fit(base, lessons, depth=depth, **settings)
        held = None if run.yardstick is None else run.yardstick.pairs
        if held is not None:
            reward_G2 = np.asarray(run.logps(model, held, label="score held-out pairs").sums())
            run.note(**{f"reward_model_{size}_accuracy": float((reward_G2[:, 0] > reward_G2[:, 1]).mean())})
        return model

    def ppo(self, run: Run, policy: PolicyHandle, prompts: Slates, model: PolicyHandle) -> PolicyHandle:
        """The value model begins as the reward model."""
        return ppo(
            run, policy, prompts, judging.reward_model(model), rounds=self.rounds, n=self.n,
            temperature=self.temperature, kl_coef=self.kl_coef, unfinished=self.unfinished,
            value=str(model.path), value_lr=self.value_lr,
        )  # fmt: skip

    def grpo(self, run: Run, policy: PolicyHandle, prompts: Slates, model: PolicyHandle) -> PolicyHandle:
        """Eight rollouts a prompt and no value model."""
        return grpo(
            run, policy, prompts, judging.reward_model(model), rounds=self.rounds, n=8, temperature=self.temperature,
            beta=self.kl_coef, unfinished=self.unfinished,
        )  # fmt: skip


ONLINE: Mapping[str, Callable[[Plan, Run, PolicyHandle, Slates, PolicyHandle], PolicyHandle]] = {
    "ppo": Plan.ppo, "grpo": Plan.grpo,
}  # fmt: skip
WHOLE = ("all", "mixed")
"""Sets of prompts that are no value of a column."""


def size_of(text: str) -> float | str:
    """A share of the policy's layers, or the directory of another model.

    >>> size_of("0.5"), size_of(".")
    (0.5, '.')
    """
    try:
        share = float(text)
    except ValueError:
        if not Path(text).expanduser().is_dir():
            raise InputError(
                f"reward_models={text!r} is neither a share nor a directory",
                remedy="give shares of the policy's layers (1, 0.5) or directories of models to start from",
            ) from None
        return text
    if not 0 < share <= 1:
        raise InputError(f"reward_models={text!r} is no share of the layers", remedy="give a share above 0, up to 1")
    return share


def data_sets(run: Run, pairs: Contrasts, noise: Sequence[float], by: str) -> dict[str, Contrasts]:
    """The pairs by level: with labels turned round, or each data set on its own, equally many of each."""
    if not by:
        return {f"noise-{share:g}": run.curate(pairs, Turned(share), label=f"noise {share:g}") for share in noise}
    count = counted((contrast.slate for contrast in pairs), by)
    return {name: run.curate(pairs, Saying(by, name, min(count.values())), label=name) for name in sorted(count)}


def prompt_sets(run: Run, prompts: Slates, by: str) -> dict[str, Slates]:
    """All prompts; or a mixture, and those of every value of a column alone, equally many of each."""
    if not by:
        return {"all": prompts}
    count = counted(prompts, by)
    most, rows = min(count.values()), list(prompts)
    sets = {"mixed": [rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), most))]}
    sets |= {name: [slate for slate in rows if said(slate, by) == name][:most] for name in sorted(count)}
    return {name: run.slates(found, label=f"{name} prompts") for name, found in sets.items()}


def by_category(run: Run, policy: PolicyHandle, column: str) -> dict[str, float]:
    """The mean reward on held-out prompts of every value of a column, where there are rewards and the column."""
    yard = run.yardstick
    if not column or yard is None or yard.prompts is None or yard.judge is None:
        return {}
    judged = drawn(run, policy, yard.prompts, yard.judge, yard.n, yard.temperature)
    rewards: dict[str, list[float]] = defaultdict(list)
    for slate in judged:
        name = said(slate, column)
        if name is not None:
            rewards[name] += [v for v in slate.column(score_column(judged)) if v is not None]
    return {name: float(np.mean(found)) for name, found in sorted(rewards.items()) if found}
