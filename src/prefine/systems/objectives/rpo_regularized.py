"""092 RPO (regularised): the SFT term is an adversarial regulariser. arXiv 2405.16436 (NeurIPS 2024).

max_pi min_r { eta E[ r(x,a1) - r(x,a0) - beta KL ] + NLL_BT(r; D) }, with the inner problem solved, is DPO plus
a likelihood term on a baseline distribution, in practice the chosen responses:

    L = -log sigma( beta h ) - eta beta log pi(y_w)              cumulative (token sum, with the factor beta)
    L = -log sigma( beta h ) - eta log pi(y_w)/|y_w|             average (token mean, without it)

h = log-ratio(y_w) - log-ratio(y_l), token sums, frozen reference; only response tokens are in the second term.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective
from prefine.run import Run


@system(
    92, "rpo-regularized", "RPO: provably mitigating overoptimization, your SFT loss is an adversarial regularizer",
    family="objective", paper="arXiv 2405.16436",
    on_worlds={"lr": 1e-3, "epochs": 2, "beta": 0.1, "eta": 0.2, "average": True},
    question="alignment-tax", likelihood="guarded",
)  # fmt: skip
def rpo_regularized(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.01,
    eta: float = 0.005,
    average: bool = False,
) -> PolicyHandle:
    """DPO plus a small likelihood term on the chosen responses, which is pessimism in disguise.

    Use it when DPO lowers the likelihood of chosen responses, or when the data do not cover what the policy
    could drift to. Not when the chosen responses are themselves bad: the term imitates them.

    beta, eta: the paper's 0.01 and 0.005 (cumulative), or 0.5 and 0.2 with average=True.
    """
    return run.train(policy, pairs, objective=objectives.regularised(beta, eta, average))


@claim(
    "rpo-regularized",
    statement="After equal training on the same few pairs, the log-probability of held-out chosen responses is "
    "higher than under DPO in every seed, and the gold reward of samples is at least DPO's.",
    baseline="dpo",
    holds=lambda f: (
        bool(np.all(f["rpo_chosen_logp"] > f["dpo_chosen_logp"])) and f["rpo_gold"].mean() > f["dpo_gold"].mean()
    ),
)
def displacement(lab: Lab, seed: int) -> Mapping[str, float]:
    """Few pairs that do not cover the space, long training: where DPO extrapolates, RPO stays."""
    world = lab.world("assistant")
    run = lab.run("few-pairs", seed, world=world, lr=1e-3, batch_size=16, epochs=12)
    base = lab.base(run, world)
    held_out = lab.prompts(run, world, 128, split="test")

    def pairs_of(prompts: int, split: str) -> Contrasts:
        slates = run.sample(base, lab.prompts(run, world, prompts, split=split), n=2)
        return run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    train, test = pairs_of(96, "train"), pairs_of(128, "test")
    figures = {}
    arms: dict[str, Objective] = {"dpo": objectives.dpo(0.1), "rpo": objectives.regularised(0.1, 0.2, average=True)}
    for name, objective in arms.items():
        policy = run.train(base, train, objective=objective)
        figures[f"{name}_chosen_logp"] = float(np.mean([w for w, _ in run.logps(policy, test).sums()]))
        figures[f"{name}_gold"] = run.evaluate(policy, held_out, judge=world.gold, start=base, n=2)["reward"]
    return figures
