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
= the last round's model, this round's pairs only). ``reference`` switches.

The linear theory is in curating/elliptical.py: the likelihood fit, Sigma, relative uncertainty (the enhancer of
the claim) and pessimism point by point (option II: the Gibbs policy of ``pessimistic(...)``, ``Tabular.tilted``).
Option I, which takes the norm of the policy's *mean* feature, has no Gibbs form and is left out: a language model
has no features to take it of. Confidence widths are tunable constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.elliptical import Covariance
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.policies.tabular import Tabular
from prefine.run import Run
from prefine.sampling import ladder, rejection_sampled
from prefine.slate import Candidate, Slate, scores

PAIRINGS = ("max-min", "max-random", "max-max", "max-min-p", "random")


@system(
    4, "iterative-dpo-gshf", "Iterative preference learning from human feedback under a KL constraint",
    family="iteration", paper="arXiv 2312.11456", on_worlds={"lr": 1e-3, "epochs": 2},
    question="online", learning="online, active", shift="corrected",
)  # fmt: skip
def iterative_dpo_gshf(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    pairs: Contrasts | None = None,
    *,
    mode: Literal["online", "hybrid", "offline"] = "online",
    rounds: int = 3,
    n: int = 4,
    pairing: Literal["max-min", "max-random", "max-max", "max-min-p", "random"] = "max-min",
    reference: Literal["previous", "start"] = "previous",
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


@claim(
    "iterative-dpo-gshf",
    statement="In a linear bandit (d = 8) with 400 labels whose first policy covers the good responses poorly, the "
    "KL-regularised suboptimality J(pi*) - J(pi) is lower for the online loop with the enhancer than for offline DPO "
    "on 400 pairs from pi_0, and lower than for the online loop with both arms from the main agent.",
    baseline="offline DPO on as many labels, and the loop without the enhancer",
    seeds=tuple(range(10)),
    holds=lambda f: (
        f["gap_enhanced"].mean() < f["gap_offline"].mean() and f["gap_enhanced"].mean() < f["gap_main_only"].mean()
    ),
)
def linear_bandit(lab: Lab, seed: int) -> Mapping[str, float]:
    """20 contexts, 16 responses in R^8, eta = 0.3, Bradley-Terry labels, 8 batches of 50.

    Half of the responses have features in four dimensions and nearly all of pi_0's mass, the other half in the
    four others: what pi_0 hardly says, its pairs hardly teach. DPO on a log-linear policy *is* the
    maximum-likelihood step, so the agents are real ``run.train`` calls.
    """
    rng = np.random.default_rng(seed)
    contexts, arms, d, eta = 20, 16, 8, 0.3
    phi = rng.normal(size=(contexts, arms, d)) / np.sqrt(d)
    phi[:, : arms // 2, d // 2 :] = phi[:, arms // 2 :, : d // 2] = 0.0
    truth = rng.normal(size=d)
    truth *= 4 / np.linalg.norm(truth)
    reward = phi @ truth
    names, actions = [f"context {x}" for x in range(contexts)], [str(a) for a in range(arms)]
    liking = np.tile(np.where(np.arange(arms) < arms // 2, 4.0, 0.0), (contexts, 1))
    first = Tabular(names, actions, liking, features_PAD=phi)
    best = Tabular(names, actions, liking + reward / eta)

    def value(policy: Tabular) -> float:
        return float((policy.expected(reward) - eta * policy.kl(Tabular(names, actions, liking))).mean())

    with lab.run("bandit", seed, lr=0.2, batch_size=50, epochs=12, schedule="linear", warmup=0.0, clip=None) as run:
        folder = lab.root / f"start-{seed}"
        if not folder.exists():
            first.save(folder)
        start = run.policy(folder)

        def online(enhanced: bool, batches: int = 8, batch: int = 50) -> Tabular:
            policy, seen = start, Covariance.ridge(d)
            lessons: list[Slate] = []
            coins = np.random.default_rng([seed, 1])
            for _ in range(batches):
                pi = policy.load().probabilities_PA().numpy()  # type: ignore[attr-defined]
                for x in coins.integers(contexts, size=batch):
                    one = int(coins.choice(arms, p=pi[x] / pi[x].sum()))
                    two = int(coins.choice(arms, p=pi[x] / pi[x].sum()))
                    if enhanced:  # the most uncertain response whose KL to the main agent its uncertainty pays for
                        width = seen.norm(phi[x] - pi[x] @ phi[x])
                        near = -eta * np.log(pi[x]) <= np.sqrt(d) * width
                        two = int(np.where(near, width, -1.0).argmax()) if near.any() else two
                    win = coins.random() < 1 / (1 + np.exp(reward[x, two] - reward[x, one]))
                    seen = seen.add((phi[x, one] - phi[x, two])[None])
                    both = Slate(names[x], (Candidate(str(one)), Candidate(str(two))), meta={"id": str(len(lessons))})
                    lessons.append(both.with_feedback("score", scores([float(win), float(not win)])))
                pairs = run.curate(run.slates(lessons), curating.extremes("score"))
                policy = run.train(start, pairs, objective=objectives.dpo(eta))
            return policy.load()  # type: ignore[return-value]

        optimum = value(best)
        return {
            "gap_offline": optimum - value(online(enhanced=False, batches=1, batch=400)),
            "gap_main_only": optimum - value(online(enhanced=False)),
            "gap_enhanced": optimum - value(online(enhanced=True)),
        }
