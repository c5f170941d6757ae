"""113 Pre-DPO: a guiding reference for direct preference optimisation. arXiv 2504.15843 (AAAI 2026).

    1. guide:   pi_g = DPO or SimPO from pi_sft on D
    2. policy:  DPO from pi_sft (not from pi_g), on the same D, with pi_g as the frozen reference:
                L = -log sigma( beta [ (log pi - log pi_g)(y_w) - (log pi - log pi_g)(y_l) ] )

The gradient of DPO is weighted by lambda = sigma( -beta [Delta - Delta_ref] ). With the start as reference all pairs
begin at 1/2. With the guide they begin at sigma( beta [Delta_g - Delta_sft] ): pairs whose margin the guide could
enlarge get more than 1/2, pairs that it could not learn (wrong labels, contradictions) less. No other model, no more
data. The target is relative to the guide, so the policy is drawn to the guide and beyond: with a SimPO guide take a
larger beta than DPO's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.formats import pairs_of
from prefine.objectives import Objective
from prefine.registry import one_of
from prefine.run import Run
from prefine.worlds.loglinear import LogLinear


@system(
    113, "pre-dpo", "Pre-DPO: improving data utilization with a guiding reference model",
    family="objective", paper="arXiv 2504.15843", on_worlds={"lr": 1e-3, "epochs": 1, "beta": 0.1},
    question="reference", data="noisy-pairs", reference="guiding",
)  # fmt: skip
def pre_dpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    guide: Literal["dpo", "simpo"] = "dpo",
    beta: float = 0.05,
    guide_beta: float | None = None,
    guide_gamma: float = 1.0,
    guide_lr: float | None = None,
) -> PolicyHandle:
    """Train once, keep the result as the reference, and train again from the same start on the same pairs.

    Use it when there is time for two trainings and pairs are of uneven quality: the reference then weighs them.
    Not when the guide can memorise its data (many epochs, few pairs): then it has "learnt" wrong labels too, and
    they get no less weight; nor when an epoch is too little: the second training starts anew, and as many
    steps of DPO get further. The guide is not the end of the way but where DPO is anchored.

    guide: dpo, or simpo (which needs no reference; use beta 0.1 after it). beta: of the second training.
    guide_beta: of the guide (default: beta for dpo, 2.5 for simpo); guide_gamma: simpo's margin.
    guide_lr: learning rate of the first training (default: the same; the paper takes 6e-7, then 1e-6).
    """
    own = guide_beta
    guides: Mapping[str, Callable[[], Objective]] = {
        "dpo": lambda: objectives.dpo(beta if own is None else own),
        "simpo": lambda: objectives.simpo(2.5 if own is None else own, guide_gamma),
    }
    first, second = one_of("guide", guide, guides)(), objectives.dpo(beta)
    settings: dict[str, Any] = {} if guide_lr is None else {"lr": guide_lr}
    guided = run.train(policy, pairs, objective=first, label="train the guide", **settings)
    weights = starting_weights(run, policy, guided, pairs, beta)
    run.note(pair_weight_mean=float(weights.mean()), pair_weight_below_half=float((weights < 0.5).mean()))
    return run.train(policy, pairs, objective=second, reference=guided)


def starting_weights(run: Run, policy: PolicyHandle, guide: PolicyHandle, pairs: Contrasts, beta: float) -> np.ndarray:
    """lambda of every pair before the first step of the second training, sigma( beta [Delta_g - Delta_sft] )."""
    margins = [np.diff(np.asarray(run.logps(p, pairs).sums())[:, ::-1])[:, 0] for p in (guide, policy)]
    return 1 / (1 + np.exp(-beta * (margins[0] - margins[1])))


@claim(
    "pre-dpo",
    statement="On sets of 1,000 pairs of a known log-linear reward with 30% of the labels flipped and a guide trained "
    "for one epoch, at a learning rate at which that is about enough (0.1; at half of it a second epoch of DPO gains "
    "more), the pairs with right labels begin the second training with a mean weight more than 0.02 above that "
    "of the flipped ones in every seed (under DPO the gap is 0), and accuracy on new pairs after it is at least that "
    "of DPO trained for as many steps in all, on the average of four sets, in at least 4 of 5 seeds.",
    baseline="dpo, two epochs",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        bool(np.all(f["weight_of_right"] - f["weight_of_flipped"] > 0.02))
        and float((f["pre_dpo_accuracy"] >= f["dpo_accuracy"]).mean()) >= 0.8
    ),
)
def which_pairs_count(lab: Lab, seed: int) -> Mapping[str, float]:
    """d = 20, beta = 1, steps of 50 pairs. Accuracy: the share of pairs of new responses that are ordered as by the
    true reward, which for N(0, 1) features is 1 - angle / pi."""
    run = lab.run("flipped", seed, lr=0.1, batch_size=50, log_every=100)
    rows = [_one_set(lab, run, LogLinear(pairs=1000, dimensions=20, flips=(0.3,), seed=4 * seed + k)) for k in range(4)]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _one_set(lab: Lab, run: Run, world: LogLinear) -> dict[str, float]:
    start = run.policy(world.base(lab.root / "bases"))
    pairs = run.curate(run.slates(world.slates()), lambda slates, rng: pairs_of(slates))
    objective = objectives.dpo(1.0)
    guide = run.train(start, pairs, objective=objective)
    weights = starting_weights(run, start, guide, pairs, 1.0)
    policies = {
        "guide": guide,
        "pre_dpo": run.train(start, pairs, objective=objective, reference=guide),
        "dpo": run.train(start, pairs, objective=objective, epochs=2),
    }
    figures = {
        "weight_of_right": float(weights[~world.flipped].mean()),
        "weight_of_flipped": float(weights[world.flipped].mean()),
    }
    for name, policy in policies.items():
        theta = policy.load().module.theta_D.detach().numpy()  # type: ignore[union-attr,operator]
        cosine = theta @ world.theta / np.linalg.norm(theta) / np.linalg.norm(world.theta)
        figures[f"{name}_accuracy"] = float(1 - np.arccos(cosine) / np.pi)
    return figures
