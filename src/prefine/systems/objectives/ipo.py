"""114 IPO / PsiPO: preferences regressed to a finite target. arXiv 2310.12036 (AISTATS 2024).

PsiPO maximises E[ Psi(p*(y > y'|x)) ] - tau KL(pi||ref) for a non-decreasing Psi. Psi = log-odds gives
RLHF and DPO; Psi = identity gives IPO, whose optimum pi* ~ ref exp(p*(y > mu)/tau) stays close to the
reference even when preferences are deterministic. With h = log-ratio(y_w) - log-ratio(y_l):

    L = ( h - 1/(2 tau) )^2                          labelled pairs
    L = ( h - (p*(y > mu) - p*(y' > mu)) / tau )^2   known probabilities (``target="win"``)

Log-ratios are token means for language models (the normalisation the authors confirmed), sums for bandits.
Known probabilities are values of the pairs: ``curating.win_rate_pairs`` puts them there from a judge's table, so
``prefine run iterate --rounds 1 --curator win-rates --objective ipo:target=win`` is the population form, on
samples of the policy. Other Psi: log-odds is DPO; the rest of the family is theory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
    question="implicit-reward", loss="squared", length="normalised",
)  # fmt: skip
def ipo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    tau: float = 0.1,
    mean: bool = True,
    target: Literal["hard", "preference", "win"] = "hard",
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
    "tau doubles IPO's margin (1.8 to 2.2 times).",
    baseline="dpo",
    holds=lambda f: (
        f["dpo_kl_last"].mean() > 3 * f["dpo_kl_first"].mean()
        and abs(f["ipo_kl_last"].mean() / f["ipo_kl_two_thirds"].mean() - 1) < 0.1
        and 1.8 < f["margin_ratio_half_tau"].mean() < 2.2
    ),
)
def long_training(lab: Lab, seed: int) -> Mapping[str, float]:
    """About 35 pairs, 180 full-batch steps, whole-response log-ratios as in the theory; KL on fresh samples."""
    world = lab.world("assistant")
    run = lab.run("long", seed, world=world, lr=3e-4, batch_size=64, schedule="constant", warmup=0.0)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 36)
    pairs = run.curate(
        run.judge(run.sample(base, prompts, n=2), world.annotators["perfect"]), curating.extremes("score")
    )
    reference = np.asarray(run.logps(base, pairs).sums())

    def trained(objective: Objective) -> list[PolicyHandle]:
        """The policy after every fifteenth epoch."""
        found = [base]
        for _ in range(12):
            found.append(run.train(found[-1], pairs, objective=objective, reference=base, epochs=15))
        return found[1:]

    def kl(policy: PolicyHandle) -> float:
        return run.evaluate(policy, prompts, judge=None, start=base, n=24)["kl"]

    def margin(policy: PolicyHandle) -> float:
        ratio = np.asarray(run.logps(policy, pairs).sums()) - reference
        return float((ratio[:, 0] - ratio[:, 1]).mean())

    dpo, wide = trained(objectives.dpo(0.1)), trained(objectives.ipo(0.5, mean=False))
    half = trained(objectives.ipo(0.25, mean=False))
    return {
        "dpo_kl_first": kl(dpo[0]),
        "dpo_kl_last": kl(dpo[-1]),
        "dpo_margin": margin(dpo[-1]),
        "ipo_kl_two_thirds": kl(wide[7]),
        "ipo_kl_last": kl(wide[-1]),
        "ipo_margin": margin(wide[-1]),
        "margin_ratio_half_tau": margin(half[-1]) / margin(wide[-1]),
    }
