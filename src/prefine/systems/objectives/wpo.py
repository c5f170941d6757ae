"""086 WPO: off-policy pairs weighted so that they act like on-policy ones. arXiv 2406.11827 (EMNLP 2024).

A fixed data set was not drawn from the policy that learns from it. Weigh every pair by how likely the policy is to
say both responses, a token at a time, calibrated so that its own text weighs about 1:

    w(y) = exp( 1/|y| sum_t [ log pi(y_t|.) - c_t ] ),   c_t = log sum_v pi(v|.)^2    ("sampled", eq. 2)
    L = -sg[ min( w(y_w) w(y_l), 1 ) ] log sigma( beta h )

h as in DPO. c_t = log max_v pi(v|.) is "greedy", 0 "none". The cut at 1 is in the official code and not in the
paper (``clip=False`` leaves it out). Weights are not renormalised, never differentiated, and computed anew at every
step from the policy as it is (with its dropout, if there is any). The weight goes over any pair objective:
``objectives.on_policy(simpo())``. The paper's hybrid data (own samples beside a strong model's answer, best against a
lower one) are ``curating.max_random`` or ``extremes`` over both.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import torch

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.judging.base import Scored
from prefine.objectives import Objective
from prefine.objectives.readings import collision, over_vocabulary
from prefine.policies.base import Limits
from prefine.run import Run
from prefine.slate import OTHER, Contrast, Slate, group


@system(
    86, "wpo", "WPO: enhancing RLHF with weighted preference optimization",
    family="objective", paper="arXiv 2406.11827", on_worlds={"lr": 1e-3, "epochs": 2, "beta": 0.1},
    question="online", shift="corrected",
)  # fmt: skip
def wpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.01,
    label_smoothing: float = 0.0,
    calibration: Literal["sampled", "greedy", "none"] = "sampled",
    clip: bool = True,
) -> PolicyHandle:
    """DPO with every pair weighted by how likely the policy itself is to say both responses.

    Use it when the pairs come from other models than the one in training. Not when they are the policy's own samples
    (all weights are about 1: it is DPO), nor when the good responses are far from anything the policy would say and
    have to be learnt from all the same: they hardly count.

    beta: the paper's 0.01. calibration: what a token's probability is compared with (see the module).
    """
    return run.train(policy, pairs, objective=objectives.wpo(beta, label_smoothing, calibration, clip))


@claim(
    "wpo",
    statement="Before training, the policy's own samples weigh 0.5 to 1.1 on average, at least twice what another "
    "model's do, and vary less with calibration than without (coefficient of variation), in every seed. Trained on "
    "both kinds of pairs, of which only the foreign ones are labelled the wrong way round, WPO ends with more gold "
    "reward than DPO in at least 2 of 3 seeds and on average.",
    baseline="dpo",
    holds=lambda f: (
        bool(np.all((f["own_weight"] > 0.5) & (f["own_weight"] < 1.1)))
        and bool(np.all(f["own_weight"] > 2 * f["foreign_weight"]))
        and bool(np.all(f["spread_calibrated"] < f["spread_plain"]))
        and (f["wpo_gold"] > f["dpo_gold"]).mean() >= 2 / 3
        and f["wpo_gold"].mean() > f["dpo_gold"].mean()
    ),
)
def foreign_pairs(lab: Lab, seed: int) -> Mapping[str, float]:
    """Half the pairs sampled from the base, half from it at temperature 2: another, wilder model."""
    world = lab.world("assistant")
    run = lab.run("foreign", seed, world=world, lr=1e-3, batch_size=32, epochs=2)
    base, prompts = lab.base(run, world), lab.prompts(run, world, 96)
    held_out = lab.prompts(run, world, 128, split="test")

    def sampled(role: str, temperature: float) -> Slates:
        slates = run.judge(run.sample(base, prompts, n=4, temperature=temperature, role=role), world.gold)
        return run.judge(slates, Scored(turned, "reversed"))

    mine, theirs = sampled("own", 1.0), sampled("foreign", 2.0)
    own, foreign = run.curate(mine, curating.extremes("gold")), run.curate(theirs, curating.extremes("reversed"))
    calibrated, plain = _weights(base, run.curate(mine, everything))
    figures = {
        "own_weight": float(calibrated.mean()),
        "foreign_weight": float(_weights(base, run.curate(theirs, everything))[0].mean()),
        "spread_calibrated": float(calibrated.std() / calibrated.mean()),
        "spread_plain": float(plain.std() / plain.mean()),
    }
    mixed = run.join(own, foreign)
    arms: dict[str, Objective] = {"dpo": objectives.dpo(0.1), "wpo": objectives.wpo(0.1)}
    for name, objective in arms.items():
        policy = run.train(base, mixed, objective=objective)
        figures[f"{name}_gold"] = run.evaluate(policy, held_out, judge=world.gold, start=base, n=2)["reward"]
    return figures


def everything(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    """All responses of every slate, without sides."""
    return (group(slate, tuple(range(len(slate))), (OTHER,) * len(slate)) for slate in slates)


def turned(slate: Slate) -> list[float]:
    """The gold reward with its sign changed."""
    return [-v for v in slate.column("gold")]


@torch.no_grad()
def _weights(policy: PolicyHandle, samples: Contrasts) -> tuple[np.ndarray, np.ndarray]:
    """w(y) of every response, with and without calibration."""
    from prefine.engine.batch import collate_contrasts, encode_contrasts

    live, contrasts = policy.load(), list(samples)
    batch = collate_contrasts(contrasts, encode_contrasts(live, contrasts, Limits()))
    view = live.view(batch)  # type: ignore[attr-defined]
    length_N = batch.mask_NT.sum(-1)
    plain_N = view.logp().sum(-1) / length_N
    calibrated_N = plain_N - over_vocabulary(collision, view).sum(-1) / length_N
    return calibrated_N.exp().numpy(), plain_N.exp().numpy()
