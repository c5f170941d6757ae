"""062 SparsePO: preference alignment controlled by sparse token masks. arXiv 2410.05102 (EMNLP Findings 2025).

Not every token of a response is why it was preferred. Two weights >= 0 a token, on its reward and on its KL:

    u = sum_t m^u_t log pi(y_t)/ref(y_t),    d = sum_t m^d_t (-KL_t),    KL_t = KL( ref(.|ctx_t) || pi(.|ctx_t) )
    L = -log sigma( beta [ (u_w - u_l) - (d_w - d_l) ] ) + lam_u |m^u|_1 + lam_d |m^d|_1

KL over the vocabulary, with gradient. Masks are learnt along: of every layer's state of the frozen reference (before
the token) ReLU(W_l h + b_l), mixed to one number and through a ReLU again, so many are exactly 0; or they come from the
reference's activations (MaPO), fixed. Masks are of no use after training. All 1: TDPO1; 1 and 0: DPO.

From the released code. Two choices here: the mixer starts as an average, since a ReLU that starts shut stays shut; and
MaPO hears attention, feed-forward and output of every layer, and the logits, at the place that predicts a token.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives.token_masks import MaskNet
from prefine.policies.base import Limits
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair


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
    dropout: float = 0.01,
    bias: float = 0.0,
    mask_lr: float = 1.0,
) -> PolicyHandle:
    """Token-level DPO that learns which tokens carry the preference and which may leave the reference.

    Use it when a few tokens decide (sentiment, a wrong word, a step) and the rest should stay as it was. Not when
    whole responses differ in kind, nor on a table; the reference is kept in memory and run at every step.

    beta: 0.8 in the paper's IMDb and TL;DR, 0.1 in HH. masks: one learnt network for both weights, two, the
    reference's activations (MaPO), all ones (TDPO1), or the reward alone (DPO). lam_u, lam_d: weight of the masks'
    L1 norms (0.001 in HH, else 0). bias, mask_lr: of the network at the start; its learning rate over the policy's.
    """
    objective = objectives.sparsepo(beta, masks, lam_u, lam_d, net, dropout, bias, mask_lr)
    return run.train(policy, pairs, objective=objective)


SYMBOLS = tuple("abcdefghi")
MARKER, GOOD, BAD = "M", "G", "B"
PROMPT = "say:"


def spelled(rng: random.Random, after: str) -> str:
    """Ten symbols at random, somewhere among them the marker and what comes after it."""
    symbols = [rng.choice(SYMBOLS) for _ in range(8)]
    at = rng.randrange(8)
    return "".join(f" {s}" for s in [*symbols[:at], MARKER, after, *symbols[at:]])


def write_symbols(rng: random.Random) -> tuple[str, str]:
    return PROMPT, spelled(rng, rng.choice((GOOD, BAD)))


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
    """Independent masks of the last layer, as in the sheet: bias 0.5, lam 0.01, beta 0.5; a tiny language model."""
    from prefine.worlds.pretrain import Settings, pretrained

    base_at = pretrained(
        (lab.worlds or Path(lab.root) / "worlds"), "symbols", write_symbols,
        Settings(steps=200, rows=32, width=48, layers=2, heads=4, context=32, words=400),
    )  # fmt: skip
    run = lab.run("masks", seed, lr=4e-3, batch_size=16, max_steps=120, schedule="constant")
    base, rng = run.policy(base_at), random.Random(62_000 + seed)
    slates = [Slate(PROMPT, tuple(Candidate(spelled(rng, s)) for s in (GOOD, BAD)), meta={"id": i}) for i in range(256)]
    pairs = run.curate(run.slates(slates), lambda found, _: [pair(s, 0, 1) for s in found])
    sparse = objectives.sparsepo(0.5, "independent", 0.01, 0.01, "last", 0.0, bias=0.5, mask_lr=2.5)
    dpo = run.train(base, pairs, objective=objectives.dpo(0.5))
    masked = run.train(base, pairs, objective=sparse)
    seen = list(pairs)[:64]
    return {"dpo_good": _good(dpo, seen), "sparsepo_good": _good(masked, seen), **_masks(base, masked, seen)}


def _rows(live: Any, contrasts: list[Contrast]) -> tuple[Any, np.ndarray]:
    """The batch of some pairs, and (N, T) whether a response token comes right after the marker."""
    from prefine.engine.batch import collate_contrasts, encode_contrasts

    batch = collate_contrasts(contrasts, encode_contrasts(live, contrasts, Limits()))
    texts = [[live.tokenizer.decode([i]).strip() for i in row.response] for row in batch.rows]
    after_NT = np.zeros(tuple(batch.mask_NT.shape), dtype=bool)
    for n, words in enumerate(texts):
        after_NT[n, words.index(MARKER) + 1] = True
    return batch, after_NT


@torch.no_grad()
def _good(policy: PolicyHandle, contrasts: list[Contrast]) -> float:
    """P(good symbol | marker), the mean over responses that have it."""
    live: Any = policy.load()
    batch, after_NT = _rows(live, contrasts)
    logp_NT = live.logp(batch)[0].numpy()
    return float(np.exp(logp_NT[after_NT][::2]).mean())


@torch.no_grad()
def _masks(base: PolicyHandle, policy: PolicyHandle, contrasts: list[Contrast]) -> dict[str, float]:
    """The reward mask as it was learnt, at the place that predicts what follows the marker and elsewhere."""
    from safetensors.torch import load_file

    from prefine.engine.learner import LEARNT

    live: Any = base.load()
    batch, after_NT = _rows(live, contrasts)
    learnt = load_file(policy.path / LEARNT)
    masks = {}
    for name in ("mask-u", "mask-d"):
        net = MaskNet("last", 0.0, 0.0, 1.0, live.size)
        net.load_state_dict({n.removeprefix(f"{name}."): t for n, t in learnt.items() if n.startswith(f"{name}.")})
        masks[name] = net(live.view(batch, deep=True)).numpy()
    counts_NT = batch.mask_NT.numpy() > 0
    reward = masks["mask-u"]
    return {
        "mask_after_marker": float(reward[after_NT].mean()),
        "mask_elsewhere": float(reward[counts_NT & ~after_NT].mean()),
        "zeros": float(np.mean([(m[counts_NT] == 0).mean() for m in masks.values()])),
    }
