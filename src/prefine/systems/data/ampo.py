"""100 AMPO: active multi-preference optimisation, a few negatives that cover what the policy says. arXiv 2502.18293
(ICML 2025).

Of N samples the best is accepted, S+ = { argmax r }, and k of the others are rejected, chosen to cover the rest:

    bottom-k     the k lowest rewards
    coreset      k-means with k clusters, from each the lowest reward
    opt-select   argmin_{|S| = k} sum_i e^{mean r - r_i} min_{j in S} || e_i - e_j ||       (weighted k-medoids)

    L = -log [ sum_{S+} e^{s_i} / sum_{S+ u S-} e^{s_i} ],  s_i = beta/|y_i| log pi(y_i) + alpha (r_i - mean r)

without a reference. If whatever is not rejected itself is held down only by the nearest that is, low cost is high
reward (the paper's theorem). Clusters and medoids are of the N - 1 others; opt-select is exact up to 5,000 subsets,
else local search. Set sizes, learning rate and the length normalisation are reconstructed, and so is the sign of the
offset (``deviation``): signed as the paper restates it, absolute as in the parent method; alpha = 0 does without.

Roles: the current policy is sampled and its hidden states compare the responses; there is no reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prefine import curating, objectives
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.curating.vectors import STATES
from prefine.judging.base import Judge, spoken_by
from prefine.registry import given_for
from prefine.run import Run
from prefine.selecting import Features
from prefine.worlds.modes import Modes


@system(
    100, "ampo", "AMPO: active multi-preference optimization for self-play preference selection",
    family="data", paper="arXiv 2502.18293", on_worlds={"lr": 1e-3, "n": 12, "k": 4},
    question="online", data="rewards, lists", learning="online, active", loss="divergence", reference="none",
    divergence="none", length="normalised",
)  # fmt: skip
def ampo(
    run: Run,
    policy: PolicyHandle,
    prompts: Slates | None = None,
    judge: Judge | None = None,
    lists: Slates | None = None,
    *,
    learn_from: Literal["samples", "lists"] = "samples",
    n: int = 32,
    k: int = 7,
    select: Literal["opt-select", "coreset", "bottom-k"] = "opt-select",
    vectors: str = STATES,
    beta: float = 5.0,
    alpha: float = 1.0,
    deviation: Literal["signed", "absolute"] = "signed",
    temperature: float = 0.8,
    rounds: int = 1,
) -> PolicyHandle:
    """Contrast the best of many samples with a few bad ones of different kinds, so that no kind is forgotten.

    Use it when a model goes wrong in several ways and there is a reward for each answer. Not with a handful of samples
    a prompt: there is nothing to choose from.

    learn_from: "samples" (n of the policy, scored by the judge, in rounds) or "lists" (scored responses, --data).
    k: how many are rejected. vectors: what responses are compared by: "states" (the policy's own hidden states),
    "words", or the directory of a sentence encoder. alpha: for the scale of the scores.
    """
    given = {"samples": None if prompts is None or judge is None else prompts, "lists": lists}
    source = given_for("learn_from", learn_from, given)
    objective, cover = objectives.ampo(beta, alpha, deviation), curating.covering(select, k, vectors_of=vectors)
    for t in run.rounds(rounds):
        slates = run.slice(source, t, rounds)
        if learn_from == "samples":
            slates = run.sample(policy, slates, n=n, temperature=temperature)
            slates = run.judge(slates, spoken_by(judge, policy))  # type: ignore[arg-type]
        if vectors == STATES:
            slates = run.judge(slates, Features(policy), role="view")
        policy = run.train(policy, run.curate(slates, cover), objective=objective)
        run.watch(policy)
    return policy


@claim(
    "ampo",
    statement="Of a policy with four bad kinds of response, coreset and opt-select bring more kinds below a fifth of "
    "their probability than the k lowest, which leave at least one above on most seeds; the expected gold reward "
    "is higher with either, on every seed. Equal samples, judge calls, set sizes and steps.",
    baseline="the k lowest rewards as negatives (bottom-k)",
    seeds=(0, 1, 2),
    holds=lambda f: bool(
        all(f[f"held_{name}"].mean() > f["held_bottom-k"].mean() for name in ("coreset", "opt-select"))
        and all((f[f"gold_{name}"] > f["gold_bottom-k"]).all() for name in ("coreset", "opt-select"))
        and (f["held_bottom-k"] < 4).mean() > 0.5
    ),
)
def four_bad_kinds(lab: Lab, seed: int) -> Mapping[str, float]:
    """40 responses of 6 kinds; 64 prompts with 32 samples, k = 4, 60 steps. "held": bad kinds below a fifth."""
    world = Modes(seed=seed)
    run = lab.run("arms", seed, lr=0.1, batch_size=8, max_steps=60, schedule="constant", warmup=0.0)
    base, prompts = run.policy(world.base(lab.root)), run.slates(world.prompts(64))
    start, figures = world.shares(base.load()), {}  # type: ignore[arg-type]
    for select in ("bottom-k", "coreset", "opt-select"):
        policy = ampo(
            run, base, prompts, world.judge, k=4, select=select, vectors="words", beta=1.0, temperature=1.0  # type: ignore[arg-type]
        ).load()  # fmt: skip
        figures[f"held_{select}"] = float((world.shares(policy) / start < 0.2)[:4].sum())  # type: ignore[arg-type]
        figures[f"gold_{select}"] = world.value(policy)  # type: ignore[arg-type]
    return figures
