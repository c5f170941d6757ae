"""064 ADPO: active learning for direct preference optimization by D-optimal design. arXiv 2503.01076.

Treat the policy as log-linear in the features of its last layer. DPO on labelled pairs is then a logistic regression,
a label of pair i adds v_i v_i^T to its Hessian, and the pairs to ask are chosen greedily for the largest log det:

    v_i = beta sqrt(mu_i (1 - mu_i)) [ phi(x_i, y_1) - phi(x_i, y_2) ],   mu_i = sigma( beta (r(y_1) - r(y_2)) ),
    I_t = argmax v_i^T H_{t-1}^-1 v_i,     H_t = H_{t-1} + v_I v_I^T,     H_0 = gamma I.

ADPO (online) asks for labels and fits the policy again when the number of labels doubles; ADPO+ (offline) has all labels,
fits once on all and keeps the best subset. Both end in ordinary DPO on the subset, from the start, against the start.

Roles: the start speaks (one pair a prompt), gives the features phi and is reference throughout; the policy fitted on the
labels so far gives mu; the judge labels, in offline mode nobody. The pooling of phi (mean of the last hidden states over
the response), gamma = 0.01 and the first fit at 8 labels are ours; the search among 256 at random and the doubling are
the paper's. An over-confident fit on a handful of labels gives v near zero to all it is wrongly sure of, so early fits
want a few epochs, not convergence (the claim's have the ridge of their prior).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives, selecting
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.elliptical import maximum_likelihood
from prefine.judging.base import Judge, spoken_by
from prefine.registry import given_for, one_of
from prefine.run import Run
from prefine.selecting.optimal import Inverse, curvature, greedy
from prefine.worlds.linear_pool import LinearPool


@system(
    64, "adpo", "ADPO: active DPO by D-optimal design", family="active", paper="arXiv 2503.01076",
    on_worlds={"lr": 1e-3, "epochs": 2, "temperature": 1.0}, question="online", data="rewards, pairs",
    learning="active, offline, online",
)  # fmt: skip
def adpo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates | None = None,
    preference: Judge | None = None,
    pairs: Contrasts | None = None,
    *,
    feedback: Literal["online", "offline"] = "online",
    budget: str = "25%",
    choice: Literal["d-optimal", "apo", "random", "certainty"] = "d-optimal",
    first: int = 8,
    beta: float = 0.1,
    gamma: float = 0.01,
    subset: int = 256,
    dimensions: int = 128,
    temperature: float = 1.0,
) -> PolicyHandle:
    """Label the pairs that together pin the policy down best, or train on the best part of the labels there are.

    Use it where a fixed pool of pairs is much larger than what can be labelled. Not where the last layer's features
    are still to be learnt: the design trusts them.

    feedback: online asks for labels of fresh pairs, offline chooses among labelled ones. budget: pairs, a share of the
    pool or a number. choice: apo leaves out what the policy says already, random and certainty are the baselines.
    first: labels before the first fit. subset: pairs looked at for every choice, 0 for all.
    """
    design = one_of("choice", choice, CHOICES)(beta, gamma, subset, dimensions)
    loss = objectives.dpo(beta)
    if feedback == "offline":
        given = given_for("feedback", feedback, {"online": prompts, "offline": pairs})
        fitted = run.train(policy, given, objective=loss, label="fit on all labels")
        kept = selecting.chosen(run, given, selecting.with_budget(design, budget), fitted, policy)
        return run.train(policy, kept, objective=loss)
    pool = run.sample(policy, given_for("feedback", feedback, {"online": prompts, "offline": pairs}), n=2,
                      temperature=temperature, role="start")  # fmt: skip
    judge = given_for("feedback", feedback, {"online": preference, "offline": pairs})
    pool = run.select(pool, selecting.differing, label="pairs with something to choose between")
    total, fitted = selecting.Budget.read(budget).of(len(pool)), policy
    for t in run.rounds(len(steps := doubling(total, first))):
        view = selecting.view_of(design, fitted, policy)
        seen = pool if view is None else run.judge(pool, view, role="view")
        worth = selecting.with_budget(design, steps[t])
        asked = run.select((seen, taken) if t else seen, worth if t else selecting.unseen(worth))
        taken = run.join(taken, asked) if t else asked
        found = run.curate(run.judge(asked, spoken_by(judge, fitted)), curating.win_rate_pairs())
        labelled = run.join(labelled, found) if t else found
        pool = run.select((pool, asked), selecting.Remaining()) if t + 1 < len(steps) else pool
        fitted = run.train(policy, labelled, objective=loss)  # from the start, on all labels so far
        run.watch(fitted)
    return fitted


CHOICES: Mapping[str, Callable[[float, float, int, int], selecting.Selector]] = {
    "d-optimal": lambda beta, gamma, subset, size: selecting.d_optimal(1, beta, gamma, True, subset, size),
    "apo": lambda beta, gamma, subset, size: selecting.d_optimal(1, beta, gamma, False, subset, size),
    "random": lambda beta, gamma, subset, size: selecting.at_random(1),
    "certainty": lambda beta, gamma, subset, size: selecting.certainty(1),
}


def doubling(total: int, first: int) -> list[int]:
    """How many to ask before every fit: as many as there are labels, once there are ``first``.

    >>> doubling(20, 4), doubling(3, 8)
    ([4, 4, 8, 4], [3])
    """
    steps = [min(first, total)]
    while sum(steps) < total:
        steps.append(min(sum(steps), total - sum(steps)))
    return steps
