"""126 Unpacking DPO and PPO: best practices for learning from preference feedback. arXiv 2406.09279 (NeurIPS 2024).

Four things are varied one at a time, everything else fixed: the preference data, the algorithm (DPO, or PPO against a
reward model of the same pairs), the reward model (its size), and the prompts that PPO trains on. Arms:

    DPO   -log sigma( beta [ log pi/ref (y_w) - log pi/ref (y_l) ] )
    RM    -log sigma( r(y_w) - r(y_l) ),  a scalar head on the first policy's backbone, or on another model's
    PPO   y ~ pi at a temperature; score r(y) at the last token, -10 if y was cut before its end;
          r_t = -kl_coef (log old - log ref)_t, + the score on the last token;  GAE, whitened over the round;
          clipped policy loss and clipped value loss, value model begun as the reward model, with its own optimiser

A round is a step of the paper: its prompts are sampled once and passed over in mini-batches. (The optimisers begin anew
each round, where the release goes on with them.) The report has every arm, and how much each factor matters: the mean
difference between two of its levels over all arms that are otherwise alike. What the paper finds, in this order: data,
algorithm, reward model, prompts. The release whitened over single responses in an early version; here it is over the
batch, as the paper says, with Bessel's correction and 1e-6 under the root.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.tags import said
from prefine.errors import InputError
from prefine.evaluation import drawn, score_column
from prefine.registry import at_least, between, one_of, positive
from prefine.run import Run
from prefine.slate import Contrast, Slate
from prefine.systems.blocks.grpo import grpo
from prefine.systems.blocks.ppo import ppo

Levels = dict[str, str]


@system(
    126, "unpacking-dpo-ppo", "Unpacking DPO and PPO: data, algorithm, reward model and prompts, one at a time",
    family="evaluation", paper="arXiv 2406.09279", question="online", data="pairs, rewards",
    learning="offline, online", loss="logistic, policy-gradient",
    on_worlds={
        "lr": 1e-3, "dpo_lr": 1e-3, "dpo_epochs": 2, "reward_lr": 1e-3, "reward_epochs": 3, "value_lr": 1e-3,
        "rounds": 6, "batch_size": 16, "temperature": 1.0, "unfinished": -1.0, "category": "kind",
    },
)  # fmt: skip
def unpacking_dpo_ppo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates,
    *,
    noise: tuple[float, ...] = (0.0, 0.2),
    data_by: str = "",
    algorithms: tuple[str, ...] = ("dpo", "ppo"),
    reward_models: tuple[str, ...] = ("1", "0.5"),
    prompts_by: str = "",
    category: str = "",
    rounds: int = 20,
    beta: float = 0.1,
    kl_coef: float = 0.05,
    temperature: float = 0.7,
    unfinished: float = -10.0,
    dpo_lr: float = 5e-7,
    dpo_epochs: float = 3.0,
    reward_lr: float = 1e-5,
    reward_epochs: float = 1.0,
    value_lr: float | None = None,
    n: int = 1,
) -> PolicyHandle:
    """Every combination of data, algorithm and reward model, and PPO on every set of prompts; the best arm comes out.

    Use it before a large run, to see what is worth spending on: better pairs, samples, or a larger reward model. It
    trains a policy an arm, so not on the model itself where a smaller one of its family will do.

    noise: shares of labels turned round, the levels of data. data_by: a column of the pairs that names their data set,
    instead. algorithms: of dpo, ppo, grpo. reward_models: shares of the policy's layers, or directories of models.
    prompts_by: a column of the prompts; PPO then also trains on those of each value alone, equally many. category: a
    column of the held-out prompts to break rewards down by. rounds: steps of PPO, each on its part of the prompts.
    beta: DPO's closeness. kl_coef: PPO's price of a nat. unfinished: the score of a response cut before its end.
    dpo_lr, dpo_epochs: of DPO. reward_lr, reward_epochs: of the reward models. value_lr: of the value model (else lr).
    n: responses a prompt that PPO draws (GRPO eight).
    """
    for share in noise:
        between(0, 1, noise=share)
    for name in algorithms:
        one_of("algorithms", name, {"dpo": None, **ONLINE})
    positive(beta=beta)
    at_least(0, kl_coef=kl_coef)
    plan = Plan(
        algorithms, tuple(size_of(text) for text in reward_models), rounds, beta, kl_coef, temperature, unfinished,
        {"lr": dpo_lr, "epochs": dpo_epochs}, {"lr": reward_lr, "epochs": reward_epochs}, value_lr, n,
    )  # fmt: skip
    data, asked = data_sets(run, pairs, noise, data_by), prompt_sets(run, prompts, prompts_by)
    arms: list[tuple[Levels, float, PolicyHandle]] = []
    for levels, trained in plan.arms(run, policy, data, asked):
        figures = run.watch(trained)
        measured = figures.get("reward", figures.get("pair_accuracy", 0.0))
        arms.append((levels, measured, trained))
        run.note(**{"_".join([*levels.values(), name]): x for name, x in by_category(run, trained, category).items()})
        run.note(**{"_".join(levels.values()): measured})
    run.note(**{f"effect_of_{factor}": x for factor, x in effects([(a, x) for a, x, _ in arms]).items()})
    return max(arms, key=lambda arm: arm[1])[2]


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


@dataclass(frozen=True)
class Turned:
    """A curator: every pair's label the wrong way round with this probability."""

    share: float

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        for contrast in rows:
            turned = rng.random() < self.share
            yield replace(contrast, roles=tuple(-role for role in contrast.roles)) if turned else contrast


@dataclass(frozen=True)
class Saying:
    """A curator: so many of the pairs whose column has this value."""

    column: str
    value: str
    most: int

    def __call__(self, rows: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
        found = [contrast for contrast in rows if said(contrast.slate, self.column) == self.value]
        return iter(rng.sample(found, min(self.most, len(found))))


def counted(slates: Iterable[Slate], column: str) -> Counter[str]:
    """How many rows there are of every value."""
    count = Counter(value for slate in slates if (value := said(slate, column)) is not None)
    if not count:
        raise InputError(
            f"a comparison by {column!r}, and no row has such a column",
            remedy=f'give rows with "{column}": "name", or leave the option out',
        )
    return count


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


def gap(arms: Sequence[tuple[Levels, float]], factor: str, one: str, other: str) -> float:
    """How much higher arms at a level are than those at another, the mean over couples that are otherwise alike.

    Alike where both have the factor: DPO has no reward model, so it is compared with PPO under each of them.

    >>> arms = [({"data": "a", "size": "1"}, 3.0), ({"data": "b", "size": "1"}, 1.0), ({"data": "b", "size": "2"}, 0.0)]
    >>> gap(arms, "data", "a", "b"), gap(arms, "size", "1", "2")
    (2.0, 1.0)
    """
    gaps = [
        x - y for levels, x in arms for others, y in arms
        if levels.get(factor) == one and others.get(factor) == other
        and all(levels[name] == others[name] for name in levels.keys() & others.keys() - {factor})
    ]  # fmt: skip
    return float(np.mean(gaps)) if gaps else 0.0


def effects(arms: Sequence[tuple[Levels, float]]) -> dict[str, float]:
    """Factor -> the largest gap between two of its levels."""
    levels: dict[str, dict[str, None]] = defaultdict(dict)
    for have, _ in arms:
        for factor, level in have.items():
            levels[factor][level] = None
    return {
        factor: max((abs(gap(arms, factor, a, b)) for a, b in combinations(found, 2)), default=0.0)
        for factor, found in levels.items()
    }


@claim(
    "unpacking-dpo-ppo",
    statement="On a grid of labels right or 20% turned round, DPO or PPO, and reward models of all or half of the "
    "policy's layers, gold reward depends more on the data than on the reward model's size; and PPO with the gold "
    "reward ends above DPO on the same prompts' clean pairs.",
    baseline="DPO; the other levels of the grid",
    holds=lambda f: bool(
        f["right_over_turned"].mean() > abs(f["whole_over_half"].mean()) and f["ppo_gold"].mean() > f["dpo"].mean()
    ),
)
def grid(lab: Lab, seed: int) -> Mapping[str, float]:
    """192 prompts: a pair each for DPO and the reward models, 8 samples each for PPO; gold reward on 128 others."""
    world = lab.world("assistant")
    run = lab.run("grid", seed, world=world, lr=7e-4, batch_size=6, log_every=1000)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 192)
    held_out = lab.prompts(run, world, 128, split="test")
    judged = run.judge(run.sample(base, prompts, n=4), world.annotators["perfect"])
    pairs = run.curate(judged, curating.extremes("score"))
    tiny = {"temperature": 1.0, "unfinished": -1.0, "rounds": 4, "n": 8, "kl_coef": 0.02}
    both = {"lr": 1e-3, "batch_size": 16}
    plan = Plan(dpo={"epochs": 2, **both}, reward={"epochs": 3, **both}, **tiny)  # type: ignore[arg-type]
    arms: list[tuple[Levels, float]] = []
    figures: dict[str, float] = {}

    def gold(policy: PolicyHandle) -> dict[str, float]:
        return run.evaluate(policy, held_out, judge=world.gold, start=base, n=2)

    for levels, trained in plan.arms(run, base, data_sets(run, pairs, (0.0, 0.2), ""), {"all": prompts}):
        measured = gold(trained)
        arms.append((levels, measured["reward"]))
        if levels == {"data": "noise-0", "algorithm": "dpo"}:
            figures |= {"dpo": measured["reward"], "dpo_kl": measured["kl"]}
    best = gold(ppo(run, base, prompts, world.annotators["perfect"], **tiny))  # type: ignore[arg-type]
    return {
        **figures, "start": gold(base)["reward"], "ppo_gold": best["reward"], "ppo_gold_kl": best["kl"],
        "right_over_turned": gap(arms, "data", "noise-0", "noise-0.2"),
        "whole_over_half": gap(arms, "reward_model", "1.0", "0.5"),
        "ppo_over_dpo": gap(arms, "algorithm", "ppo", "dpo"),
    }  # fmt: skip
