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
from typing import Any, Literal

import numpy as np
import torch

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective
from prefine.policies.base import Limits
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
    run = lab.run("degrees", seed, world=world, lr=1e-3, batch_size=16, max_steps=60)
    base = lab.base(run, world)

    def pairs_of(split: str, n: int) -> Contrasts:
        slates = run.sample(base, lab.prompts(run, world, n, split=split), n=3)
        return run.curate(run.judge(slates, world.annotators["perfect"]), curating.extremes("score"))

    train, test = pairs_of("train", 128), pairs_of("test", 96)
    more = run.curate(train, curating.degraded(4))
    probed = run.curate(test, curating.degraded(4))
    figures = {}
    arms: dict[str, Objective] = {"dpo": objectives.dpo(0.1), "spo": objectives.spo_degree(0.1, 0.5, 4)}
    for name, objective in arms.items():
        policy = run.train(base, more, objective=objective)
        states, degree, ratio = _variants(base, policy, probed)
        figures[f"{name}_probe"] = _probe(states, degree)
        figures |= {f"{name}_ratio_{k}": float(ratio[degree == k].mean()) for k in range(4)}
        moved = np.asarray(run.logps(policy, test).sums()) - np.asarray(run.logps(base, test).sums())
        figures[f"{name}_accuracy"] = float((moved[:, 0] > moved[:, 1]).mean())
    return figures


@torch.no_grad()
def _variants(base: PolicyHandle, policy: PolicyHandle, pairs: Contrasts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(states of the last tokens, degrees, log-ratios) of the chosen responses' variants."""
    from prefine.engine.batch import collate_contrasts, encode_contrasts

    live, before = policy.load(), base.load()
    contrasts = list(pairs)
    batch = collate_contrasts(contrasts, encode_contrasts(live, contrasts, Limits()))
    view: Any = live.view(batch)  # type: ignore[attr-defined]
    ratio_N = (view.logp() - before.logp(batch)[0]).sum(-1)
    states_ND = view.states_NSD[torch.arange(len(batch.rows)), view.length_N]
    these = ((batch.values["degree"] >= 0) & (batch.values["of"] > 0)).numpy()
    return states_ND.numpy()[these], batch.values["degree"].numpy()[these].astype(int), ratio_N.numpy()[these]


def _probe(states: np.ndarray, degree: np.ndarray) -> float:
    """Held-out accuracy of ridge regression on the degrees' indicators: fitted on one half, told on the other."""
    x = np.hstack([(states - states.mean(0)) / (states.std(0) + 1e-6), np.ones((len(states), 1))])
    half = len(x) // 2  # the variants of a response stand together, so halves share none
    known, told = slice(0, half), slice(half, None)
    gram = x[known].T @ x[known] + 10.0 * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[known].T @ np.eye(degree.max() + 1)[degree[known]])
    return float(((x[told] @ weights).argmax(1) == degree[told]).mean())
