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
from prefine.worlds import key_words


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
    statement="Rows of words preferred for their number of key words, pairs of one length. After equal steps on the "
    "same pairs, a linear probe on frozen last-token states tells the degree of deletion (4 degrees, chance 0.25) of "
    "held-out responses more accurately by at least 0.15 than after DPO; the log-ratio of more than 60% of them falls "
    "with every degree; pair accuracy is not below DPO's by more than a point (means over seeds).",
    baseline="dpo",
    holds=lambda f: bool(
        f["spo_probe"].mean() > f["dpo_probe"].mean() + 0.15
        and f["spo_ordered"].mean() > 0.6
        and f["spo_accuracy"].mean() > f["dpo_accuracy"].mean() - 0.01
    ),
)
def probed(lab: Lab, seed: int) -> Mapping[str, float]:
    """A tiny language model, all four degrees of both sides, a probe for each side. Where content is what is preferred
    DPO's log-ratios are ordered too; where it is not, or length moves log-ratios, neither's are."""
    run = lab.run("degrees", seed, lr=2e-3, batch_size=16, max_steps=160)
    base = run.policy(key_words.base(lab.worlds or lab.root / "worlds"))

    def pairs_of(n: int, seed: int) -> Contrasts:
        return run.curate(run.judge(run.slates(key_words.slates(n, seed)), key_words.GOLD), curating.extremes("score"))

    train, test = pairs_of(384, seed), pairs_of(192, 10_000 + seed)
    degraded = curating.degraded(4, words=" ".join(key_words.KEYS))
    more, probed = run.curate(train, degraded), run.curate(test, degraded)
    degree_N, side_N = (np.concatenate([c.values[name] for c in probed]).astype(int) for name in ("degree", "of"))
    before_N = np.concatenate(run.logps(base, probed).sums())
    figures = {}
    arms = {
        "dpo": run.train(base, train, objective=objectives.dpo(0.5)),
        "spo": run.train(base, more, objective=objectives.spo_degree(0.5, 0.5, 4)),
    }
    for name, policy in arms.items():
        ratio_N = np.concatenate(run.logps(policy, probed).sums()) - before_N
        chosen, rejected = (ratio_N[(degree_N < 0) & (side_N == side)] for side in (1, -1))
        figures[f"{name}_accuracy"] = float((chosen > rejected).mean())
        falls = np.diff(ratio_N[degree_N >= 0].reshape(-1, 4), axis=1) < 0
        figures[f"{name}_ordered"] = float(falls.all(1).mean())
        states_ND = last_states(policy.load(), list(probed))
        sides = [(degree_N >= 0) & (side_N == side) for side in (1, -1)]
        told = [probe(states_ND[here], degree_N[here], here.sum() // 8 * 4) for here in sides]  # no response in both
        figures[f"{name}_probe"] = float(np.mean(told))
    return figures
