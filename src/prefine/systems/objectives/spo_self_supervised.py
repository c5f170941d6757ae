"""073 SPO (self-supervised): awareness of the degree of preference. arXiv 2409.17791 (EMNLP Findings 2024).

Pairs know only better and worse. Degrees can be had for nothing: take growing parts of a response's key content away
(RAKE key phrases, the highest-scored first) and let the model itself say how much is gone:

    L = L_align(y_w, y_l) + gamma CE( head_w(h), k ) + gamma CE( head_l(h), k )

h the last layer's state at the last token of y^(k), the response without the first floor(k/(K-1) n rho) of its n key
phrases; gradients flow into the model; a head for each side, thrown away afterwards. gamma = 0 is the alignment loss,
here DPO; ``objectives.aware_of_degree(simpo(), ...)`` goes over any.

RAKE, removal in several degrees and the auxiliary loss were read in reviews and the abstract (the official repository
has no source); K, the head's place, the two sides, gamma and drawing degrees once, when the data are made, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.policies.probing import last_states, probe
from prefine.run import Run


@system(
    73, "spo-self-supervised",
    "SPO: self-supervised preference optimization, enhance your language model with preference degree awareness",
    family="objective", paper="arXiv 2409.17791", on_worlds={"lr": 1e-3, "epochs": 2, "degrees": 3},
    question="feedback", data="graded-pairs",
)  # fmt: skip
def spo_self_supervised(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    gamma: float = 0.1,
    degrees: int = 4,
    most: float = 1.0,
    draw: int | None = 1,
    sides: Literal["both", "chosen"] = "both",
    words: str = "",
    stop_words: str = "",
) -> PolicyHandle:
    """DPO, and beside it telling how much of a response's key content was taken away.

    Use it when content decides (answers, summaries) and pairs say too little of how much. Not where removing phrases
    makes a response better (padding, harmful content), nor on answers of a word or two, which have no degrees.

    gamma: weight of the degrees (0.01 to 1). degrees: how many; most: the share of key phrases that the last one
    lacks. draw: variants of a response (None: all degrees, at that many times the compute). sides: of which responses.
    words: the key content itself, where it is known. stop_words: of another language than English.
    """
    more = run.curate(pairs, curating.degraded(degrees, most, draw, sides, words, stop_words))
    return run.train(policy, more, objective=objectives.spo_degree(beta, gamma, degrees, sides))


@claim(
    "spo-self-supervised",
    statement="After equal steps on the same pairs, a linear probe on frozen last-token states tells the degree of "
    "deletion (4 degrees, chance 0.25) of held-out responses more accurately by at least 0.15 than after DPO; the mean "
    "log-ratio of held-out chosen responses falls with every degree, and pair accuracy is not below DPO's by more than "
    "a point (means over seeds).",
    baseline="dpo",
    holds=lambda f: (
        f["spo_probe"].mean() > f["dpo_probe"].mean() + 0.15
        and all(f[f"spo_ratio_{k}"].mean() > f[f"spo_ratio_{k + 1}"].mean() for k in range(3))
        and f["spo_accuracy"].mean() > f["dpo_accuracy"].mean() - 0.01
    ),
)
def probed(lab: Lab, seed: int) -> Mapping[str, float]:
    """The assistant world, all four degrees of both sides."""
    world = lab.world("assistant")
    run = lab.run("degrees", seed, world=world, lr=1e-3, batch_size=16, max_steps=40)
    base = lab.base(run, world)

    def pairs_of(split: str, n: int) -> Contrasts:
        slates = run.sample(base, lab.prompts(run, world, n, split=split), n=3)
        return run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    train, test = pairs_of("train", 128), pairs_of("test", 96)
    more, probed = run.curate(train, curating.degraded(4)), run.curate(test, curating.degraded(4))
    degree_N, side_N = (np.concatenate([c.values[name] for c in probed]).astype(int) for name in ("degree", "of"))
    variant_N = (degree_N >= 0) & (side_N > 0)
    before_N = np.concatenate(run.logps(base, probed).sums())
    figures = {}
    arms = {
        "dpo": run.train(base, train, objective=objectives.dpo(0.1)),
        "spo": run.train(base, more, objective=objectives.spo_degree(0.1, 0.5, 4)),
    }
    for name, policy in arms.items():
        ratio_N = np.concatenate(run.logps(policy, probed).sums()) - before_N
        chosen, rejected = (ratio_N[(degree_N < 0) & (side_N == side)] for side in (1, -1))
        figures[f"{name}_accuracy"] = float((chosen > rejected).mean())
        figures |= {f"{name}_ratio_{k}": float(ratio_N[variant_N & (degree_N == k)].mean()) for k in range(4)}
        states_ND = last_states(policy.load(), list(probed))[variant_N]
        half = len(states_ND) // 8 * 4  # no response on both sides
        figures[f"{name}_probe"] = probe(states_ND, degree_N[variant_N], half)
    return figures
