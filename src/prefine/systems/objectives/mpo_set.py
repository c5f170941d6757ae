"""046 MPO (sets): multi-preference optimisation, generalising DPO by set-level contrasts. arXiv 2412.04628 (as SWEPO
first).

The responses of a prompt are split at their mean reward, Y+ = { r_i > mean r }, Y- the others, and one softmax
contrasts the accepted mass with all mass, each response weighted by how far its reward is from the mean:

    L = -log [ sum_{Y+} w_i e^{beta s_i} / sum_{Y+ u Y-} w_i e^{beta s_i} ],   w_i = e^{alpha |r_i - mean r|^p}

s_i = log pi(y_i)/ref(y_i), token sums, frozen reference; w constant, so a weight is a margin alpha |r_i - mean r|. With
Q the softmax within Y+ and P over all, dL/ds_i = -beta (Q_i - P_i). One against one without weights is DPO.

The abstract weighs by the deviation, a restatement by the same authors by the signed one (alike for the accepted side):
``signed=True`` is the second. The mean in the weights is over the responses that take part. alpha (its scale follows
the rewards'), beta and p are reconstructed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.objectives import Objective, Scores
from prefine.registry import given_for
from prefine.run import Run


@system(
    46, "mpo-set", "MPO: multi-preference optimization, generalizing DPO via set-level contrasts",
    family="objective", paper="arXiv 2412.04628", on_worlds={"lr": 1e-3, "beta": 0.1},
    question="feedback", data="lists, rewards", loss="divergence",
)  # fmt: skip
def mpo_set(
    run: Run,
    policy: PolicyHandle,
    lists: Slates | None = None,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    learn_from: Literal["lists", "samples"] = "lists",
    beta: float = 0.01,
    alpha: float = 1.0,
    power: int = 1,
    signed: bool = False,
    n: int = 5,
    most: int | None = None,
    rounds: int = 1,
) -> PolicyHandle:
    """Contrast all accepted responses of a prompt with all rejected ones at once, outliers first.

    Use it with several scored responses a prompt: what all good ones have in common is learnt, and an accident of the
    best or the worst one averages out. Not with two responses a prompt (it is DPO then, with a margin).

    learn_from: lists (scored responses, --data) or samples: n of the policy, scored by the judge, in rounds with the
    previous policy as the reference. alpha, power: of the weights, for the scale of the scores (0: all alike).
    most: only so many of either side (the paper keeps the top 2 and the bottom 2 of 5).
    """
    given = {"lists": lists, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    objective = objectives.mpo_set(beta, alpha, power, signed)
    split = curating.sets("mean", most=most)
    if learn_from == "lists":
        return run.train(policy, run.curate(source, split), objective=objective)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(source, t, rounds), n=n)
        policy = run.train(policy, run.curate(run.judge(slates, judge), split), objective=objective)  # type: ignore[arg-type]
        run.watch(policy)
    return policy


@claim(
    "mpo-set",
    statement="The pull of the first gradient on an attribute that has nothing to do with quality falls with the "
    "number of responses a prompt, as n^-0.5 (log-log slope within 0.1, n = 2 to 64), for sets split at the mean; for "
    "DPO on the best against the worst of the same responses it does not fall (slope within 0.1 of 0).",
    baseline="DPO on the best against the worst",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: bool(np.all(abs(f["mpo_slope"] + 0.5) <= 0.1) and np.all(abs(f["dpo_slope"]) <= 0.1)),
)
def bias(lab: Lab, seed: int) -> Mapping[str, float]:
    """64 prompts, 200 draws; a response has quality and nuisance, both N(0, 1); its log-ratio is W0 quality + W1
    nuisance, at W = 0. (A softmax policy's normaliser would cancel: the gradients of a contrast sum to 0.)"""
    sizes, prompts, draws = (2, 4, 8, 16, 32, 64), 64, 200
    rng = np.random.default_rng(seed)
    pulls: dict[str, list[float]] = {"mpo": [], "dpo": []}
    for n in sizes:
        quality, nuisance = rng.normal(size=(2, draws, prompts, n))
        above = quality > quality.mean(-1, keepdims=True)
        extreme = np.where(quality == quality.max(-1, keepdims=True), 1, 0)
        extreme = np.where(quality == quality.min(-1, keepdims=True), -1, extreme)
        arms: dict[str, tuple[Objective, np.ndarray]] = {
            "mpo": (objectives.mpo_set(beta=1.0, alpha=0.0), np.where(above, 1, -1)),
            "dpo": (objectives.dpo(1.0), extreme),
        }
        for name, (objective, role) in arms.items():
            w = torch.zeros(draws, dtype=torch.float64, requires_grad=True)
            ratio = w[:, None, None] * torch.from_numpy(nuisance)
            scores = Scores(
                ratio.reshape(-1, 1), torch.ones(role.size, 1, dtype=torch.float64), torch.from_numpy(role.reshape(-1)),
                torch.arange(draws * prompts).repeat_interleave(n), {"reference": torch.zeros(role.size, 1).double()},
            )  # fmt: skip
            (pull,) = torch.autograd.grad(objective(scores).per_contrast.sum() / prompts, w)
            pulls[name].append(float(pull.square().mean().sqrt()))
    slope = {name: float(np.polyfit(np.log(sizes), np.log(values), 1)[0]) for name, values in pulls.items()}
    return {
        "mpo_slope": slope["mpo"], "mpo_pull_2": pulls["mpo"][0], "mpo_pull_64": pulls["mpo"][-1],
        "dpo_slope": slope["dpo"], "dpo_pull_64": pulls["dpo"][-1],
    }  # fmt: skip
