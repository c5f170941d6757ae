"""019 Sweet spot: which two of n scored samples should be a pair, as n grows. arXiv 2502.16825 (ACL 2025).

With many samples the worst one is broken: easy to tell, and nothing is learnt from it but that. Anchors of a prompt's
rewards are

    min, mu - 2 sigma, mu - sigma, mu, mu + sigma, mu + 2 sigma, max,      y_a = argmin_k | r_k - a |

with sigma the population's; all 21 (higher, lower) pairs are possible, the best has its rejected near mu - 2 sigma
and its chosen as high as can be. For large n the paper's strategy gets there without anchors:

    S(n):  chosen = best of all n,  rejected = worst of 5 random ones        then DPO from, and towards, the start

The expected worst of 5 normal draws is mu - 1.163 sigma for every n, the worst of all falls without end. (Both anchors
on one sample, or two of one score: no pair. In a heavy tail sigma grows with the outliers, so that mu - 2 sigma can
still be one of them; S(n) does not look at sigma.)

Roles: the policy given is sampled once, and is DPO's start and frozen reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.extremes import ANCHORS, pairings
from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.registry import at_least, one_of
from prefine.run import Run
from prefine.store import read_jsonl
from prefine.worlds.tails import Tails


@system(
    19, "sweet-spot", "Finding the sweet spot: preference data construction for scaling preference optimization",
    family="data", paper="arXiv 2502.16825", on_worlds={"lr": 1e-3, "n": 12, "beta": 0.1},
    question="online", data="rewards, graded-pairs", learning="online",
)  # fmt: skip
def sweet_spot(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    n: int = 64,
    pick: Literal["strategy", "anchors", "all"] = "strategy",
    worst_of: int = 5,
    chosen: str = "max",
    rejected: str = "mu-2",
    beta: float = 0.01,
    temperature: float = 0.8,
) -> PolicyHandle:
    """DPO on the best of many samples against one that is bad, but not the very worst.

    Use it when you can sample much and score cheaply: more samples then help instead of harm. With five samples or
    fewer a prompt it is the best against the worst.

    pick: "strategy", the worst of ``worst_of`` random samples is rejected; "anchors", the samples nearest to the
    anchors ``chosen`` and ``rejected`` (min, mu-2, mu-1, mu, mu+1, mu+2, max); "all": each of the 21 pairs of anchors
    is trained and measured, and the one with the highest reward on fresh samples is given back.
    """
    at_least(1, worst_of=worst_of)
    high, low = (one_of(name, given, ANCHORS) for name, given in (("chosen", chosen), ("rejected", rejected)))
    judge = spoken_by(judge, policy)
    judged = run.judge(run.sample(policy, prompts, n=n, temperature=temperature), judge)
    dpo = objectives.dpo(beta)
    if pick != "all":
        rules = {
            "strategy": curating.best_worst_of(worst_of=worst_of),
            "anchors": curating.sweet_spot("score", low, high),
        }
        return run.train(policy, run.curate(judged, one_of("pick", pick, rules)), objective=dpo)
    found = {}
    for above, below in pairings():
        pick_two = curating.sweet_spot("score", ANCHORS[below], ANCHORS[above])
        if not any(True for _ in pick_two(judged, Random(0))):
            run.progress.say(f"{above} over {below}: no prompt has two samples there")
            continue
        trained = run.train(policy, run.curate(judged, pick_two), objective=dpo, label=f"DPO, {above} over {below}")
        found[trained] = run.evaluate(trained, prompts, judge=judge, start=policy, name=f"{above} over {below}")
    if not found:
        raise InputError("all samples of every prompt score alike", remedy="sample more, or use a finer judge")
    return max(found, key=lambda trained: found[trained]["reward"])


@claim(
    "sweet-spot",
    statement="Where a few responses are broken in an obvious way, DPO on the best against the worst gains nothing "
    "from more samples (n from 20 to 100: no rise beyond a standard error), with the rejected the worst of 5 it does "
    "not fall, and is higher at n = 100 beyond two standard errors of the difference; the loss of best against worst "
    "is lower all the same.",
    baseline="best against worst of all n, equal pairs and steps",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        (rise := f["worst_100"] - f["worst_20"]).mean() <= error(rise)
        and (f["five_100"] - f["five_20"]).mean() >= 0
        and (gain := f["five_100"] - f["worst_100"]).mean() > 2 * error(gain)
        and f["loss_worst_100"].mean() < f["loss_five_100"].mean()
    ),
)
def more_samples(lab: Lab, seed: int) -> Mapping[str, float]:
    """64 prompts, 48 steps of 16 pairs. Figures are expected gold rewards, exactly."""
    world = Tails(seed=seed, dimensions=32, flag=20.0)
    run = lab.run("arms", seed, lr=0.03, batch_size=16, max_steps=48)
    base, prompts = run.policy(world.base(lab.root)), run.slates(world.slates())
    figures = {}
    for n in (5, 20, 100):
        for name, few in {"worst": n, "five": 5}.items():
            trained = sweet_spot(run, base, prompts, world.judge, n=n, worst_of=few, beta=0.3, temperature=1.0)
            figures[f"{name}_{n}"] = world.value(trained.load())  # type: ignore[arg-type]
            figures[f"loss_{name}_{n}"] = read_jsonl(run.dir / "metrics.jsonl")[-1]["loss"]
    return figures


def error(x: np.ndarray) -> float:
    """Standard error of the mean over seeds."""
    return float(x.std(ddof=1) / np.sqrt(len(x)))
