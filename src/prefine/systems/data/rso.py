"""117 RSO: statistical rejection sampling, pairs from the policy that is being estimated. arXiv 2309.06657 (ICLR 2024).

DPO's maximum likelihood wants pairs from the optimal policy pi* ~ sft exp(r/beta); offline pairs come from anywhere.
So fit a ranker rho(x, y1, y2) = P(y1 > y2) to the human pairs, draw N candidates of the SFT policy, keep n of them
by rejection sampling towards pi*, pair those and label the pairs with rho:

    accept y with probability exp( (r(y) - r_max)/beta ),  r(x, y) = logit rho(x, y, y_b) or the ranker's own score
    L = -log sigma(gamma D)  |  max(0, 1 - gamma D)  |  max(0, 1 - gamma G)      sigmoid-norm | hinge-norm | hinge

D the gap of log-ratios against sft, G of log-probabilities, token sums. gamma, the confidence in the labels, has
nothing to do with beta. Candidates are distinct texts, taken without replacement in sweeps with a new r_max each
(the paper's algorithm 1; curating/statistical.py). The paper also cuts sampling to the 40 likeliest tokens; here
temperature 0.7 is all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from prefine import curating, judging, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.registry import one_of
from prefine.run import Run
from prefine.worlds.many_arms import ManyArms

SOURCES = {"rso": True, "sft": True, "direct": False}


@system(
    117, "rso", "RSO: statistical rejection sampling improves preference optimization", family="data",
    paper="arXiv 2309.06657",
    on_worlds={"lr": 1e-3, "epochs": 2, "pool": 16, "n": 4, "temperature": 1.0},
    question="online", learning="offline, online", loss="logistic, hinge", shift="corrected",
)  # fmt: skip
def rso(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates,
    preference: Judge | None = None,
    *,
    source: Literal["rso", "sft", "direct"] = "rso",
    pool: int = 64,
    n: int = 8,
    beta: float = 0.5,
    gamma: float = 0.05,
    loss: Literal["sigmoid-norm", "hinge-norm", "hinge"] = "sigmoid-norm",
    pairing: Literal["first-round", "tournament"] = "first-round",
    temperature: float = 0.7,
    rounds: int = 1,
) -> PolicyHandle:
    """Human pairs make a ranker; the ranker makes pairs of the responses the best policy would give.

    Use it when pairs come from other models than yours, or were written by people, and sampling is affordable.
    Not with a ranker that is wrong about the best responses: rejection sampling finds its errors (a larger beta
    trusts it less).

    source: "rso"; "sft", n plain samples without rejection; "direct", the given pairs as they are.
    pool, n, beta: how many candidates are drawn and kept, and how sharply (0: the best n, inf: any n).
    preference: a ranker at hand (--judge) in place of one fitted to the pairs. rounds: more than one goes on with
    the new policy as the proposal.
    """
    sampled, objective = one_of("source", source, SOURCES), objectives.rso(gamma, loss)
    keep, draw_pairs = curating.accepted(n, beta), curating.drawn_pairs(pairing)
    if not sampled:
        return run.train(policy, pairs, objective=objective)
    if preference is None:
        ranker = run.fit(policy, pairs)
        reward: Judge = judging.reward_model(ranker, name="reward")
        preference, baselines = judging.BradleyTerryTable(judging.reward_model(ranker)), 0
    else:
        reward, baselines = judging.induced(preference), 1
    for t in run.rounds(rounds):
        part = run.slice(prompts, t, rounds)
        if source == "sft":
            kept = run.sample(policy, part, n=n, temperature=temperature)
        else:
            drawn = run.sample(policy, part, n=pool + baselines, temperature=temperature)
            kept = run.slates(curating.alone(run.curate(run.judge(drawn, reward), keep)), label="accepted")
        lessons = run.curate(run.judge(kept, preference), draw_pairs)
        policy = run.train(policy, lessons, objective=objective)
        run.watch(policy)
    return policy


@claim(
    "rso",
    statement="16 prompts with 500 responses each, a ranker that overrates 4% of them, equal pairs and steps: mean "
    "gold reward is higher with rejection sampling (beta 0.5) than with plain samples of the SFT policy, under the "
    "same loss and under SLiC's hinge, and there higher than on pairs from a weaker policy; KL to the SFT policy is "
    "within 5% of that on plain samples; a very sharp beta of 0.01 does not beat 0.5 by more than a standard error.",
    baseline="the same loss and SLiC on plain samples, the same loss on the given pairs",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(
        f["gold_rso"].mean() > max(f["gold_sft"].mean(), f["gold_slic"].mean())
        and f["gold_sft"].mean() > f["gold_direct"].mean()
        and abs(f["kl_rso"].mean() / f["kl_sft"].mean() - 1) < 0.05
        and (f["gold_sharp"] - f["gold_rso"]).mean()
        <= (f["gold_sharp"] - f["gold_rso"]).std(ddof=1) / np.sqrt(len(f["gold_rso"]))
    ),
)
def sources(lab: Lab, seed: int) -> Mapping[str, float]:
    """64 pairs and 60 steps an arm. What is learnt of a response says nothing of others, so labels are worth most on
    those that the best policy gives; the sharpest choice among 128 is of those that the ranker overrates."""
    world = ManyArms(seed=seed)
    run = lab.run("sources", seed, lr=0.3, batch_size=32, max_steps=60)
    base, worse = (run.policy(path) for path in world.saved(run.dir / "policies"))
    prompts, ranker, draw_pairs = run.slates(world.slates()), world.ranker, curating.drawn_pairs()
    given = run.curate(run.judge(run.sample(worse, prompts, n=8), ranker), draw_pairs)
    arms: Mapping[str, Mapping[str, Any]] = {
        "rso": {}, "sft": {"source": "sft"}, "slic": {"source": "sft", "loss": "hinge"},
        "direct": {"source": "direct"}, "sharp": {"beta": 0.01},
    }  # fmt: skip
    figures: dict[str, float] = {}
    start = world.table()
    for name, options in arms.items():
        trained: Any = rso(run, base, given, prompts, ranker, pool=128, temperature=1.0, **options).load()
        figures |= {f"gold_{name}": world.value(trained), f"kl_{name}": float(trained.kl(start).mean())}
    return figures
