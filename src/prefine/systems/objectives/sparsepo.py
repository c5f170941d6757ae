"""062 SparsePO: preference alignment controlled by sparse token masks. arXiv 2410.05102 (EMNLP Findings 2025).

Not every token of a response is why it was preferred. Two weights >= 0 a token, on its reward and on its KL:

    u = sum_t m^u_t log pi(y_t)/ref(y_t),    d = sum_t m^d_t (-KL_t),    KL_t = KL( ref(.|ctx_t) || pi(.|ctx_t) )
    L = -log sigma( beta [ (u_w - u_l) - (d_w - d_l) ] ) + lam_u |m^u|_1 + lam_d |m^d|_1

KL over the vocabulary, with gradient. Masks are learnt along: of every layer's state of the frozen reference (before
the token) ReLU(W_l h + b_l), mixed to one number and through a ReLU again, so many are exactly 0; or they come from the
reference's activations (MaPO), fixed. Masks are of no use after training. All 1: TDPO1; 1 and 0: DPO.

From the released code. Choices here: the mixer starts as an average and with a bias all masks start equal, since a ReLU
that starts shut stays shut; masks decay as the policy does (0.01 in the code: nothing beside an L1 norm); MaPO hears
attention, feed-forward and output of every layer, and the logits, at the place that predicts a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from prefine import curating, objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.engine.learner import LEARNT
from prefine.objectives.readings import restored
from prefine.run import Run
from prefine.worlds import symbols


@system(
    62, "sparsepo", "SparsePO: controlling preference alignment of LLMs via sparse token masks",
    family="objective", paper="arXiv 2410.05102",
    on_worlds={"lr": 1e-3, "epochs": 2, "masks": "independent", "mask_lr": 10.0},
    question="feedback", granularity="token", divergence="forward-kl", beta="adaptive",
)  # fmt: skip
def sparsepo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    masks: Literal["common", "independent", "activations", "ones", "reward"] = "common",
    lam_u: float = 0.0,
    lam_d: float = 0.0,
    net: Literal["all", "last", "two-layer"] = "all",
    mask_dropout: float = 0.01,
    bias: float = 0.0,
    mask_lr: float = 1.0,
) -> PolicyHandle:
    """Token-level DPO that learns which tokens carry the preference and which may leave the reference.

    Use it when a few tokens decide (sentiment, a wrong word, a step) and the rest should stay as it was. Not when
    whole responses differ in kind, nor on a table; the reference is kept in memory and run at every step.

    beta: 0.8 in the paper's IMDb and TL;DR, 0.1 in HH. masks: one learnt network for both weights, two, the
    reference's activations (MaPO), all ones (TDPO1), or the reward alone (DPO). lam_u, lam_d: weight of the masks'
    L1 norms (0.001 in HH, else 0). net, mask_dropout, bias, mask_lr: of the networks: what they see, their dropout,
    where they start, their learning rate over the policy's.
    """
    objective = objectives.sparsepo(beta, masks, lam_u, lam_d, net, mask_dropout, bias, mask_lr)
    return run.train(policy, pairs, objective=objective)


@claim(
    "sparsepo",
    statement="Sequences of random symbols, preferred for the one symbol that comes after a marker in them: "
    "the learnt reward mask at the place after the marker is more than 10 times its mean elsewhere, more than 70% of "
    "all masks are exactly 0, and P(good symbol | marker) reaches at least 0.98, in every seed; DPO's is not more than "
    "0.01 higher after as many steps.",
    baseline="dpo",
    holds=lambda f: (
        bool(np.all(f["mask_after_marker"] > 10 * f["mask_elsewhere"]))
        and f["zeros"].min() > 0.7
        and f["sparsepo_good"].min() >= 0.98
        and bool(np.all(f["dpo_good"] < f["sparsepo_good"] + 0.01))
    ),
)
def after_the_marker(lab: Lab, seed: int) -> Mapping[str, float]:
    """Independent masks of the last layer, bias 0.5, lam 0.01, beta 0.5; a tiny language model, at DPO's best rate."""
    run = lab.run("masks", seed, lr=4e-3, batch_size=16, max_steps=120, schedule="constant")
    base = run.policy(symbols.base(lab.worlds or lab.root / "worlds"))
    judged = run.judge(run.slates(symbols.slates(256, seed)), symbols.GOLD)
    pairs = run.curate(judged, curating.extremes("gold"))
    sparse = objectives.sparsepo(0.5, "independent", 0.01, 0.01, "last", 0.0, bias=0.5)
    trained = {
        name: run.train(base, pairs, objective=objective)
        for name, objective in {"dpo": objectives.dpo(0.5), "sparsepo": sparse}.items()
    }
    before: Any = base.load()
    batch, after_NT = symbols.located(before, list(pairs)[:64])
    good_NT = after_NT & (batch.role_N > 0).numpy()[:, None]
    figures = {}
    with torch.no_grad():
        for name, policy in trained.items():
            figures[f"{name}_good"] = float(policy.load().logp(batch)[0].exp().numpy()[good_NT].mean())
        networks = restored(sparse, load_file(trained["sparsepo"].path / LEARNT), before.size)
        masks = {name: network(before.view(batch, deep=True)).numpy() for name, network in networks.items()}
    counts_NT = batch.mask_NT.numpy() > 0
    return figures | {
        "mask_after_marker": float(masks["mask-u"][after_NT].mean()),
        "mask_elsewhere": float(masks["mask-u"][counts_NT & ~after_NT].mean()),
        "zeros": float(np.mean([(m[counts_NT] == 0).mean() for m in masks.values()])),
    }
