"""079 HyPO (hybrid): offline DPO with the online reverse KL it lacks. arXiv 2406.01462 (NeurIPS 2024).

Offline contrastive losses need data that cover everything; online RL needs data that cover what is close to the
reference, because it holds KL(pi || ref) on its own samples. So add that term, from unlabelled samples:

    L = -log sigma( beta h ) + lam * 1/k sum_i sg[ R_i - b_i ] log pi(y_i),   y_1..k ~ pi, R = log pi(y)/ref(y)

h the gap of log-ratios of an offline pair, token sums; b_i the mean of the other k - 1 R's; ref frozen. The second
term is no KL in value, its gradient is: grad KL(pi||ref) = E_pi[ R grad log pi ] (differentiating R itself gives 0).

The paper samples anew for every step. Here every round samples once from the policy as it stands, and where a
round has several steps the samples are weighted by pi/pi_round (cut at 10), so the gradient stays that of the
KL; ``rounds`` of as many as there are batches is the paper's loop exactly. Temperature is 1: at another one the
samples would not be the policy's. Structure read in public reviews; lam 1e-4 and beta 0.05 (TL;DR, Pythia) are
remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.registry import at_least
from prefine.run import Run
from prefine.worlds.uncovered import Uncovered


@system(
    79, "hypo-hybrid", "HyPO: the importance of online data, understanding preference fine-tuning via coverage",
    family="objective", paper="arXiv 2406.01462",
    on_worlds={"lr": 1e-3, "epochs": 2, "beta": 0.1, "lam": 0.01, "schedule": "constant"},
    question="reference", learning="offline, online", shift="corrected",
)  # fmt: skip
def hypo_hybrid(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    prompts: Slates | None = None,
    *,
    rounds: int = 8,
    beta: float = 0.05,
    lam: float = 1e-4,
    k: int = 2,
    per_token: bool = False,
) -> PolicyHandle:
    """DPO on the pairs, and on unlabelled samples of the policy itself the KL to the reference.

    Use it when DPO drifts where no pair is (its KL grows, samples get strange) and no judge is at hand: samples
    need no labels. Not where the policy has collapsed already: then all its samples are alike and say nothing.

    lam: weight of the KL (about beta on small problems). k: samples a prompt. per_token: credit tokens, not
    responses; less noise on long ones. prompts: what to sample on (--prompts; the pairs' own prompts otherwise).
    rounds: parts of the pairs (as many as there are pairs at most), each with fresh samples; with a constant schedule
    they join up.
    """
    at_least(1 if per_token else 2, k=k)
    objective = objectives.hypo(beta, lam, "sampler", per_token)
    start, rounds = policy, min(rounds, len(pairs))
    for t in run.rounds(rounds):
        part = run.curate(pairs, curating.part(t, rounds))
        unlabelled = run.slates(curating.prompts_of(part)) if prompts is None else run.slice(prompts, t, rounds)
        own = run.sample(policy, unlabelled, n=k, temperature=1.0, top_p=1.0)
        lessons = run.curate((part, own), curating.with_samples)
        policy = run.train(policy, lessons, objective=objective, reference={"reference": start, "sampler": policy})
        run.watch(policy)
    return policy


@claim(
    "hypo-hybrid",
    statement="Log-linear policy, data that compare A and B alone (A always wins) and never show C: DPO ends with "
    "KL(pi||ref) above 2 and pi(C) above 0.95; HyPO with lam 0.1 keeps the KL below 0.5 and pi(C) below 0.4 with A "
    "above B in every seed, and lam 0.2 and 0.5 give smaller KLs in that order.",
    baseline="dpo on the same pairs with as many steps",
    holds=lambda f: (
        f["kl_dpo"].min() > 2
        and f["c_dpo"].min() > 0.95
        and f["kl_0.1"].max() < 0.5
        and f["c_0.1"].max() < 0.4
        and bool(np.all(f["a_0.1"] > f["b_0.1"]))
        and f["kl_0.1"].mean() > f["kl_0.2"].mean() > f["kl_0.5"].mean()
    ),
)
def uncovered(lab: Lab, seed: int) -> Mapping[str, float]:
    """20 rounds of 5 full-batch SGD steps on 48 pairs with 2 samples each; KL and probabilities are exact."""
    world = Uncovered()
    rounds, batch, steps = 20, 48, 5
    plain: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 4.0,
        "schedule": "constant",
        "warmup": 0.0,
        "clip": None,
        "batch_size": batch,
    }
    run = lab.run("uncovered", seed, save_every=10_000, log_every=steps, epochs=steps, **plain)
    base = run.policy(world.base(lab.root))
    pairs = run.curate(run.slates(world.labelled(rounds * batch)), curating.extremes("score"))
    arms = {"dpo": run.train(base, pairs, objective=objectives.dpo(0.1), max_steps=rounds * steps)}
    arms |= {f"{x:g}": hypo_hybrid(run, base, pairs, rounds=rounds, beta=0.1, lam=x) for x in (0.1, 0.2, 0.5)}
    figures = {}
    for name, handle in arms.items():
        policy = handle.load()
        figures[f"kl_{name}"] = float(policy.kl(base.load()))  # type: ignore[attr-defined]
        for letter, p in zip("abc", policy.probabilities(0).tolist(), strict=True):  # type: ignore[attr-defined]
            figures[f"{letter}_{name}"] = p
    return figures
