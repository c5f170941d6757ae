"""114 IPO / PsiPO: preferences regressed to a finite target. arXiv 2310.12036 (AISTATS 2024).

PsiPO maximises E[ Psi(p*(y > y'|x)) ] - tau KL(pi||ref) for a non-decreasing Psi. Psi = log-odds gives
RLHF and DPO; Psi = identity gives IPO, whose optimum pi* ~ ref exp(p*(y > mu)/tau) stays close to the
reference even when preferences are deterministic. With h = log-ratio(y_w) - log-ratio(y_l):

    L = ( h - 1/(2 tau) )^2                          labelled pairs
    L = ( h - (p*(y > mu) - p*(y' > mu)) / tau )^2   known probabilities (``target="win"``)

Log-ratios are token means for language models (the normalisation the authors confirmed), sums for bandits.
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
    114, "ipo", "IPO / PsiPO: a general theoretical paradigm to understand learning from human preferences",
    family="objective", paper="arXiv 2310.12036", on_worlds={"lr": 1e-3, "epochs": 2, "tau": 0.5},
)  # fmt: skip
def ipo(
    run: Run, policy: PolicyHandle, pairs: Contrasts, *, tau: float = 0.1, mean: bool = True, target: str = "hard"
) -> PolicyHandle:
    """Regress the gap of log-ratios on 1/(2 tau): regularised even when every label is certain.

    Use it when labels are deterministic or pairs are few and training long: DPO would run away, IPO settles at
    a distance that tau sets. Not when tau cannot be tuned: too small a tau is as far as DPO, too large learns
    little.

    tau: weight of the KL (large: close to the reference). mean: token means (True) or sums.
    target: "hard" for labelled pairs, or how known probabilities on the pairs are read (see objectives.ipo).
    """
    return run.train(policy, pairs, objective=objectives.ipo(tau, mean, target))


@claim(
    "ipo",
    statement="Trained long on the same deterministic labels, DPO's KL to the reference keeps growing (last epoch "
    "more than 3 times the first) while IPO's levels off (last within 10% of the one two thirds in), and halving "
    "tau doubles IPO's margin (1.7 to 2.3 times).",
    baseline="dpo",
    holds=lambda f: (
        f["dpo_kl_last"].mean() > 3 * f["dpo_kl_first"].mean()
        and abs(f["ipo_kl_last"].mean() / f["ipo_kl_two_thirds"].mean() - 1) < 0.1
        and 1.7 < f["margin_ratio_half_tau"].mean() < 2.3
    ),
)
def long_training(lab: Lab, seed: int) -> Mapping[str, float]:
    """48 pairs, 30 epochs, constant learning rate; KL and margins are measured on the training pairs."""
    world = lab.world("assistant")
    run = lab.run("long", seed, world=world, lr=5e-4, batch_size=16, schedule="constant", warmup=0.0, weight_decay=0.0)
    base = lab.base(run, world)
    slates = run.sample(base, lab.prompts(run, world, 64), n=2)
    pairs = run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    def trace(objective: Objective, epochs: int = 30) -> list[tuple[float, float]]:
        policy, figures = base, []
        reference = run.logps(base, pairs)
        for _ in range(epochs // 3):
            policy = run.train(policy, pairs, objective=objective, reference=base, epochs=3)
            own = run.logps(policy, pairs)
            gaps = [[(o - r).mean() for o, r in zip(a, b, strict=True)] for a, b in zip(own, reference, strict=True)]
            kl = run.evaluate(policy, lab.prompts(run, world, 96, split="train"), judge=None, start=base)["kl"]
            figures.append((kl, float(np.mean([w - l for w, l in gaps]))))
        return figures

    dpo, ipo_, half = trace(objectives.dpo(0.1)), trace(objectives.ipo(0.5)), trace(objectives.ipo(0.25))
    return {
        "dpo_kl_first": dpo[0][0],
        "dpo_kl_last": dpo[-1][0],
        "ipo_kl_two_thirds": ipo_[2 * len(ipo_) // 3][0],
        "ipo_kl_last": ipo_[-1][0],
        "ipo_margin": ipo_[-1][1],
        "margin_ratio_half_tau": half[-1][1] / ipo_[-1][1],
    }
