"""068 XPO: online DPO that leaves the reference on purpose. arXiv 2405.21046 (ICLR 2025).

DPO's log-ratio is an implicit value function; being optimistic about it is one more term, the likelihood of what
the reference says, pushed down. Each round, y ~ pi_t and y~ ~ ref are compared, y~ is kept apart as well, and

    pi_{t+1} = argmin  sum_{D_pref} -log sigma( beta h ) + alpha sum_{D_opt} log pi(y~|x)

over all data so far, h = log-ratio(y_w) - log-ratio(y_l), token sums, ref frozen. alpha = 0 is online DPO with
(policy, reference) pairs. The term has no lower bound on a free softmax; small alpha bounds it, or ``floor``: a y~
whose log-ratio has fallen below it is let go.

Settled: the sign is plus (read in TRL, where an early version had a minus); released defaults are 1e-5 (TRL) and
5e-6 (oat). ``decay`` takes alpha linearly to 0 over the rounds, the schedule of the paper's experiments as
remembered (1e-5, 5e-6, 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.worlds.two_arms import TwoArms, from_policy_and_reference


@system(
    68, "xpo", "XPO: exploratory preference optimization, harnessing implicit Q*-approximation",
    family="iteration", paper="arXiv 2405.21046", on_worlds={"lr": 1e-3, "epochs": 2, "alpha": 1e-3},
    question="online", learning="online", shift="corrected",
)  # fmt: skip
def xpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates,
    judge: Judge,
    *,
    rounds: int = 3,
    beta: float = 0.1,
    alpha: float = 1e-5,
    decay: bool = True,
    loss: Literal["sigmoid", "ipo"] = "sigmoid",
    floor: float | None = None,
    unfinished: float = 0.0,
    temperature: float = 1.0,
    memory: bool = True,
) -> PolicyHandle:
    """Compare the policy with the reference, learn, and say less of what the reference says.

    Use it when good responses are rare under the start: plain online DPO waits until one is drawn. Not when the
    start covers them already: exploring costs reward (the claim shows both).

    alpha: weight of the exploration term. decay: down to 0 in the last round. unfinished: taken off the score of a
    response that was cut before its end. memory: learn from all rounds' pairs, or from this round's.
    """
    objectives.xpo(beta, alpha, loss, floor)
    start, seen = policy, None
    for t in run.rounds(rounds):
        part = run.slice(prompts, t, rounds)
        own = run.sample(policy, part, n=1, temperature=temperature)
        judged = run.judge(run.sample(start, own, n=1, temperature=temperature, role="start"), judge)
        lessons = run.curate(judged, curating.across("current", "start", unfinished=unfinished))
        seen = lessons if seen is None or not memory else run.join(seen, lessons)
        alpha_t = alpha * (1 - t / max(1, rounds - 1)) if decay and rounds > 1 else alpha
        policy = run.train(policy, seen, objective=objectives.xpo(beta, alpha_t, loss, floor), reference=start)
        run.watch(policy)
    return policy


@claim(
    "xpo",
    statement="Two responses, the better one given 1% of the time by the reference, 500 rounds of exact minimisation: "
    "cumulative regret with alpha 0.01 is below half of that with alpha 0 in every seed; with the sign flipped "
    "(-0.003) it is not below 0.9 of it. Where the rare response is worse, exploring costs regret (reported).",
    baseline="online DPO (alpha = 0) on (policy, reference) pairs",
    holds=lambda f: (
        bool(np.all(f["regret_0.01"] < 0.5 * f["regret_0"])) and f["regret_flipped"].mean() > 0.9 * f["regret_0"].mean()
    ),
)
def rare_and_good(lab: Lab, seed: int) -> Mapping[str, float]:
    """30 repetitions a seed and weight; "right" is how often it ends so, "cost" the regret where r(b) = 0."""
    beta = TwoArms().beta
    flipped = objectives.add(objectives.dpo(beta), objectives.scale(-0.003, objectives.explored()))
    arms = {f"{alpha:g}": objectives.xpo(beta, alpha) for alpha in (0.0, 0.003, 0.01)} | {"flipped": flipped}
    figures = {}
    for name, objective in arms.items():
        for figure, truth in {"regret": 1.0, "cost": 0.0}.items():
            rng = np.random.default_rng([seed, int(truth)])
            plays = [TwoArms(truth).play(objective, from_policy_and_reference, rng) for _ in range(30)]
            figures[f"{figure}_{name}"] = float(np.mean([regret for regret, _ in plays]))
            if truth:
                figures[f"right_{name}"] = float(np.mean([right for _, right in plays]))
    return figures
