"""104 PRO: preference ranking optimisation. arXiv 2306.17492 (AAAI 2024).

Learns from a ranking y_1 > ... > y_n of any length: at every rank the response is contrasted with all below it, with
temperatures from the gaps of the rewards, beside imitation of the best. With p_i = log pi(y_i)/|y_i|:

    L_k = log( 1e-10 + e^{t_kk p_k} + sum_{i>k} e^{t_ki p_i} ) - t_kk p_k,   t_ki = r_k - r_i,  t_kk = max_{i>k} t_ki
    L = sum_{k<n} L_k - w (n - 1)^2 log pi(y_1)

t constant (1/T of the paper), rewards as they come, the likelihood of the best a token sum; no reference. Without
scores all t = 1: Plackett and Luce. Equal rewards give t = 0, a constant without gradient. The data pipeline of the
paper (longer rankings by stronger models' responses, all scored by one reward model) is sampling and judging:
``learn_from="samples"`` does it with the policy's own, its self-bootstrapping variant.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Judge
from prefine.registry import given_for
from prefine.run import Run
from prefine.slate import Contrast
from prefine.worlds.loglinear import LogLinear


@system(
    104, "pro", "PRO: preference ranking optimization for human alignment",
    family="objective", paper="arXiv 2306.17492", on_worlds={"lr": 1e-3, "epochs": 2, "sft": 0.01},
    question="feedback", data="lists, rewards", reference="none", divergence="none", loss="divergence, likelihood",
    length="normalised", likelihood="guarded",
)  # fmt: skip
def pro(
    run: Run,
    policy: PolicyHandle,
    lists: Slates | None = None,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    *,
    learn_from: Literal["lists", "samples"] = "lists",
    sft: float = 0.05,
    gaps: bool = True,
    n: int = 4,
    rounds: int = 1,
) -> PolicyHandle:
    """Learn a whole ranking at once: each response against all that are worse, by how much.

    Use it with three or more ranked responses a prompt, from a base model, in one stage. Not with scores on a scale
    where gaps are large (hundreds): the temperatures are the gaps; then rank only (``gaps=False``).

    sft: weight of imitating the best response, times (n - 1)^2. gaps: temperatures from scores (of ranks: how many
    places apart), or all 1.
    learn_from: lists (ranked or scored responses, --data) or samples: n of the policy, scored by the judge, in rounds.
    """
    given = {"lists": lists, "samples": None if prompts is None or judge is None else prompts}
    source = given_for("learn_from", learn_from, given)
    objective, ranked = objectives.pro(sft, gaps), curating.ranked(carry="score")
    if learn_from == "lists":
        return run.train(policy, run.curate(source, ranked), objective=objective)
    for t in run.rounds(rounds):
        slates = run.sample(policy, run.slice(source, t, rounds), n=n)
        policy = run.train(policy, run.curate(run.judge(slates, judge), ranked), objective=objective)  # type: ignore[arg-type]
        run.watch(policy)
    return policy


def ends(lists: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """Of every ranking only the first and the last."""
    for contrast in lists:
        own = contrast.values["score"]
        values = {"score": (own[0], own[-1])} if isinstance(own, tuple) else {}
        yield replace(contrast, members=(contrast.members[0], contrast.members[-1]), roles=(1, -1), values=values)


def mixed_up(lists: Iterable[Contrast], rng: random.Random) -> Iterator[Contrast]:
    """The same order with another list's gaps: temperatures that know nothing of their list."""
    rows = list(lists)
    scores = [contrast.values["score"] for contrast in rows]
    rng.shuffle(scores)
    for contrast, score in zip(rows, scores, strict=True):
        yield replace(contrast, values={"score": score})


@claim(
    "pro",
    statement="Log-linear policies, 64 rankings of 4 responses by noisy rewards: after equal steps, held-out rank "
    "correlation (Kendall) of log-probability with the true reward is higher for whole rankings than for their first "
    "and last responses, and than with temperatures of other prompts' rankings (means over seeds).",
    baseline="the same loss on best and worst only; shuffled temperatures",
    seeds=tuple(range(10)),
    holds=lambda f: f["whole"].mean() > f["ends"].mean() and f["whole"].mean() > f["mixed_up"].mean(),
)
def whole_rankings(lab: Lab, seed: int) -> Mapping[str, float]:
    """d = 16, rewards with as much noise as spread: a gap is worth knowing where a small one may be noise."""
    world = LogLinear(dimensions=16, prompts=464, seed=seed)
    run = lab.run("rankings", seed, lr=0.02, batch_size=16, max_steps=60)
    base = run.policy(world.base(lab.root / "bases"))
    judged = run.slates(world.lists(0, 64, noise=2.0)), run.slates(world.lists(64, 464))
    train, test = (run.curate(slates, curating.ranked(carry="score")) for slates in judged)
    arms = {"whole": train, "ends": run.curate(train, ends), "mixed_up": run.curate(train, mixed_up)}
    return {
        name: kendall(run, run.train(base, rows, objective=objectives.pro(sft=0.01)), test)
        for name, rows in arms.items()
    }


def kendall(run: Run, policy: PolicyHandle, lists: Contrasts) -> float:
    """Mean over lists of Kendall's tau between mean token log-probabilities and scores; equal scores are left out."""
    found = []
    for contrast, logps in zip(lists, run.logps(policy, lists), strict=True):
        p, r = np.array([row.mean() for row in logps]), np.array(contrast.values["score"])
        i, j = np.triu_indices(len(p), 1)
        signs = np.sign(p[i] - p[j]) * np.sign(r[i] - r[j])
        found.append(signs.sum() / (r[i] != r[j]).sum())
    return float(np.mean(found))
