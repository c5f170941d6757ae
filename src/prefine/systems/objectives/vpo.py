"""099 VPO: the value of the fitted reward as a regulariser, plus or minus. arXiv 2405.19320 (ICLR 2025).

Fit a Bradley-Terry reward that also has a high value (optimism, to explore online) or a low one (pessimism,
offline). The reward's free shift is fixed by E_cal[r] = 0, which makes the value a likelihood,
J*(r) = -beta E_cal[ log pi_r - log ref ], so the policy is found at once:

    L = -log sigma( beta h ) + sign alpha beta E_{y ~ cal}[ log pi(y|x) - log ref(y|x) ]     sign +1 online, -1 offline

h = log-ratio(y_w) - log-ratio(y_l), token sums, ref frozen throughout. Offline, cal is the chosen responses of the
data: the gradient of 092 with eta = alpha, reached by another argument (on samples of ref, the term is alpha beta
KL(ref||pi)). Online every round compares two samples of the policy and learns from all rounds' pairs; cal is a sample
of ref (``calibration="other"``), or the rejected responses. XPO (068) is cal = ref with one of the pair's responses
from ref and alpha beta as its alpha.

Settled: signs and the calibration identity by derivation (a test). cal = ref online, alpha and its decay
1/sqrt(t + 1) are reconstructed: the theory wants alpha of order 1/sqrt(T).
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
from prefine.errors import InputError
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.worlds.two_arms import TwoArms, both_from_policy


@system(
    99, "vpo", "VPO: value-incentivized preference optimization, a unified approach to online and offline RLHF",
    family="objective", paper="arXiv 2405.19320", on_worlds={"lr": 1e-3, "epochs": 2, "alpha": 0.1},
    question="online", learning="offline, online", likelihood="guarded", shift="corrected",
)  # fmt: skip
def vpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    mode: Literal["offline", "online"] = "offline",
    beta: float = 0.1,
    alpha: float = 0.01,
    calibration: Literal["auto", "chosen", "rejected", "other"] = "auto",
    floor: float | None = None,
    rounds: int = 3,
    decay: bool = False,
    warm: bool = False,
) -> PolicyHandle:
    """DPO with optimism (online: tries what the reference would not say) or pessimism (offline: stays with data).

    Use it offline when DPO over-optimises on few pairs, online when good responses are rare under the start. Not
    offline with chosen responses that are bad themselves: the term imitates them.

    mode: "offline" learns from the pairs once; "online" needs prompts and a judge, and makes its own pairs
    (``warm``: beginning with the given ones).
    alpha: weight of the value. calibration: whose likelihood stands for the value: "chosen" (offline default),
    "other" (samples of the start, online default) or "rejected". floor: log-ratio below which a response is no
    longer lowered. decay: alpha/sqrt(t + 1) in round t. rounds: online only.
    """
    if mode == "online" and (prompts is None or judge is None):
        raise InputError("the online mode needs prompts and a judge", remedy="give --prompts and --judge")
    cal = {"offline": "chosen", "online": "other"}.get(mode) if calibration == "auto" else calibration
    objective = objectives.vpo(beta, alpha, mode, cal, floor)
    start = policy
    if cal == "other" and (warm or mode == "offline"):
        anchors = run.sample(start, run.slates(curating.prompts_of(pairs)), n=1, role="start")
        pairs = run.curate((pairs, anchors), curating.with_samples)
    if mode == "offline":
        return run.train(policy, pairs, objective=objective)
    assert prompts is not None and judge is not None
    seen = pairs if warm else None
    for t in run.rounds(rounds):
        part = run.slice(prompts, t, rounds)
        judged = run.judge(run.sample(policy, part, n=2), judge)
        wide = run.combine(judged, run.sample(start, part, n=1, role="start"))
        lessons = run.curate(wide, curating.accompanied(curating.extremes("score"), "start"))
        seen = lessons if seen is None else run.join(seen, lessons)
        weight = alpha / math.sqrt(t + 1) if decay else alpha
        policy = run.train(policy, seen, objective=objectives.vpo(beta, weight, mode, cal, floor), reference=start)
        run.watch(policy)
    return policy


@claim(
    "vpo",
    statement="Online, two responses, the better one 1% of the reference, both answers from the current policy, 500 "
    "rounds of exact minimisation: cumulative regret with optimism (0.01 a round) is below 0.3 of that without, in "
    "every seed; with the sign flipped (pessimism) it stays as stuck as without (not below 0.9 of it). Where the "
    "rare response is worse, optimism costs regret (reported).",
    baseline="online DPO (alpha = 0)",
    holds=lambda f: (
        bool(np.all(f["regret_0.01"] < 0.3 * f["regret_0"])) and f["regret_flipped"].mean() > 0.9 * f["regret_0"].mean()
    ),
)
def rare_and_good(lab: Lab, seed: int) -> Mapping[str, float]:
    """30 repetitions a seed and weight alpha beta; "right" is how often it ends so, "cost" the regret for r(b) = 0."""
    beta = TwoArms().beta
    arms = {f"{weight:g}": objectives.vpo(beta, weight / beta, "online") for weight in (0.0, 0.003, 0.01)}
    arms["flipped"] = objectives.vpo(beta, 0.01 / beta, "offline", "other")
    figures = {}
    for name, objective in arms.items():
        for figure, truth in {"regret": 1.0, "cost": 0.0}.items():
            rng = np.random.default_rng([seed, int(truth)])
            plays = [TwoArms(truth).play(objective, both_from_policy, rng) for _ in range(30)]
            figures[f"{figure}_{name}"] = float(np.mean([regret for regret, _ in plays]))
            if truth:
                figures[f"right_{name}"] = float(np.mean([right for _, right in plays]))
    return figures
