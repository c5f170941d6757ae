"""004 Iterative DPO and multi-step rejection sampling: preference learning under a KL constraint.

arXiv 2312.11456 (ICML 2024, first titled "Gibbs Sampling from Human Feedback"). RLHF is a contextual bandit with
a reverse-KL penalty to a fixed first policy:

    J(pi) = E[ r*(x,a) - eta KL(pi(.|x) || pi_0(.|x)) ],     pi_r(a|x) = pi_0(a|x) exp( r(x,a)/eta ) / Z

Online: the main agent is the Gibbs policy of the maximum-likelihood reward (DPO reaches it), the enhancer makes
pairs as uncertain as possible; in practice, the best and worst of n samples. Hybrid: the same with offline pairs
among the lessons. Offline: the Gibbs policy of a given reward by rejection sampling down a ladder of temperatures
eta_1 > ... > eta_N = eta, each accepting with exp( (1/eta_i - 1/eta_{i-1}) (r - r_max) ) and fine-tuning on what
was accepted.

The theory keeps the reference at pi_0 and learns from all data so far; the released loop moves both (reference
= the last round's model, this round's pairs only). ``reference`` switches. The linear model with pessimism and
relative uncertainty is in curating/elliptical.py and in the claim. Confidence widths are tunable constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.elliptical import Covariance
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.sampling import ladder, rejection_sampled

PAIRINGS = ("max-min", "max-random", "max-max", "max-min-p", "random")


@system(
    4, "iterative-dpo-gshf", "Iterative preference learning from human feedback under a KL constraint",
    family="iteration", paper="arXiv 2312.11456", on_worlds={"lr": 1e-3, "epochs": 2},
)  # fmt: skip
def iterative_dpo_gshf(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    pairs: Contrasts | None = None,
    *,
    mode: str = "online",
    rounds: int = 3,
    n: int = 4,
    pairing: str = "max-min",
    reference: str = "previous",
    beta: float = 0.1,
    label_smoothing: float = 0.1,
) -> PolicyHandle:
    """Fresh pairs from the current policy each round (online, hybrid), or rejection sampling to a target (offline).

    Use it when a reward model or other judge is at hand and offline pairs do not cover where the policy goes.

    mode: "online"; "hybrid" (offline pairs from --data join the lessons); "offline" (the rejection ladder, with
    beta as the final temperature). pairing: max-min, max-random, max-max, max-min-p, random.
    reference: "previous" (as released) or "start" (as in the theory: reference pi_0, all pairs so far).
    """
    if mode not in MODES or pairing not in PAIRINGS or reference not in ("previous", "start"):
        raise InputError(
            f"mode={mode!r}, pairing={pairing!r}, reference={reference!r} is not a combination there is",
            remedy=f"modes: {', '.join(MODES)}; pairings: {', '.join(PAIRINGS)}; references: previous, start",
        )
    if mode == "hybrid" and pairs is None:
        raise InputError("the hybrid mode needs offline pairs", remedy="give --data FILE with pairs, or --mode online")
    if mode == "offline":
        return _down_the_ladder(run, policy, prompts, judge, rounds, n, eta=beta)
    start, seen = policy, pairs if mode == "hybrid" else None
    objective = objectives.dpo(beta, label_smoothing)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(prompts, t, rounds), n=n, temperature=1.0)
        lessons = run.curate(run.judge(slates, judge), curating.make(pairing))
        if seen is not None:
            lessons = run.join(seen, lessons)
        if reference == "start":
            seen = lessons
        anchor = start if reference == "start" else policy
        policy = run.train(anchor, lessons, objective=objective)
        run.watch(policy)
    return policy


def _down_the_ladder(
    run: Run, policy: PolicyHandle, prompts: Slates, judge: Judge, steps: int, n: int, eta: float
) -> PolicyHandle:
    before = math.inf
    for t, eta_t in zip(run.rounds(steps), ladder(eta, steps), strict=True):
        judged = run.judge(run.sample(policy, run.slice(prompts, t, steps), n=n, temperature=1.0), judge)
        policy = run.train(policy, run.curate(judged, rejection_sampled(eta_t, before)), objective=objectives.sft())
        before = eta_t
        run.watch(policy)
    return policy


MODES = ("online", "hybrid", "offline")
