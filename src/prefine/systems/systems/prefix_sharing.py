"""096 Prefix sharing: a prompt is computed once for all its responses. arXiv 2410.20305 (NeurIPS 2024 workshop).

Not an objective: any loss over pairs, with the same numbers and the same gradients, for less work. The responses of a
prompt go through the model in one row, P C R; R does not see C and its positions begin where C's do:

    a token of P, C or R attends to its ancestors and itself: P to P, C to P and C, R to P and R
    position of a token = its depth: 0 .. p-1 for P, p .. for C and p .. for R

The paper repeats the prompt's last token before R, so that every scored token has a column that predicts it: p+c+r+1
columns instead of 2p+c+r. Here (``engine.trees``) the one column where the tree branches is read once for every branch
and what nobody reads is left out: p+c+r-2. The same rule for any number of responses and any depth: lists, searches,
levels of instructions; a beginning that responses share by chance is shared too. Several trees are packed in a row.

The engine does this by itself where it pays (``layout``: auto). This system asks for it, shows beforehand on some of
the pairs what it saves and that the log-probabilities agree, and has the claim.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.engine.batch import encode_contrasts
from prefine.engine.score import laid_out, score_contrasts
from prefine.engine.settings import TrainSettings
from prefine.engine.train import train
from prefine.engine.trees.tree import plant
from prefine.policies.base import Limits, Policy
from prefine.policies.causal_lm import CausalLM
from prefine.registry import Part
from prefine.run import Run
from prefine.slate import Candidate, Contrast, Slate, pair
from prefine.worlds.assistant import write
from prefine.worlds.pretrain import Settings, make_tokenizer


@system(
    96, "prefix-sharing", "Accelerating direct preference optimization with prefix sharing",
    family="systems", paper="arXiv 2410.20305", on_worlds={"lr": 1e-3, "epochs": 2}, question="cost",
)  # fmt: skip
def prefix_sharing(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    over: Part = Part("dpo(beta=0.1)"),  # noqa: B008 (a text)
    layout: Literal["tree", "auto", "padded"] = "tree",
    looked_at: int = 32,
) -> PolicyHandle:
    """Any pair loss, each prompt computed once for both of its responses; the same losses and gradients.

    Use it when prompts are long beside their responses, or have many of them. Not when prompts are short (below a
    tenth of the tokens there is nothing to save: "auto" then computes rows whole), nor with dropout.

    over: the loss, as simpo(beta=2.5). layout: tree, or padded (every row whole), or auto (trees where they pay).
    looked_at: pairs whose tokens and log-probabilities are compared in both layouts beforehand (in the notes).
    """
    objective = objectives.read(over)
    run.note(**compared(policy.load(), pairs[:looked_at], run.settings.limits))
    return run.train(policy, pairs, objective=objective, layout=layout)


def compared(policy: Policy, contrasts: Sequence[Contrast], limits: Limits) -> dict[str, float]:
    """Tokens that go through the model with and without sharing, and how far the log-probabilities are apart."""
    rows = [row for members in encode_contrasts(policy, contrasts, limits) for row in members]
    found = []
    for layout in ("tree", "padded"):
        with laid_out(layout):
            found.append([x for c in score_contrasts(policy, contrasts, limits) for x in c])
    shared, whole = plant(rows).tokens, sum(len(row.prompt) + len(row.response) for row in rows)
    apart = max((float(np.abs(a - b).max(initial=0.0)) for a, b in zip(*found, strict=True)), default=0.0)
    return {
        "tokens_whole": whole, "tokens_shared": shared, "share_computed": shared / max(whole, 1),
        "largest_logp_difference": apart,
    }  # fmt: skip


SHAPES: Mapping[str, tuple[int, int]] = {"long": (512, 64), "even": (128, 128), "short": (16, 256)}
"""Tokens of a prompt and of each response."""


@claim(
    "prefix-sharing",
    statement="DPO on the same pairs with shared prefixes and without: (p + c + r - 2) instead of (2p + c + r) tokens "
    "a pair go through the model, exactly; the losses of all steps agree to 1e-4. With prompts of 512 and responses of "
    "64 tokens a step takes at most 0.75 of the time; with 16 and 256 there is little to gain: the share of the time "
    "is larger by at least 0.15, in every seed.",
    baseline="dpo on padded rows, two passes a pair",
    holds=lambda f: (
        all(bool(np.all(f[f"{s}_tokens"] == f[f"{s}_expected"])) for s in SHAPES)
        and all(bool(np.all(f[f"{s}_apart"] <= 1e-4)) for s in SHAPES)
        and bool(np.all(f["long_time"] <= 0.75))
        and bool(np.all(f["short_time"] >= f["long_time"] + 0.15))
    ),
)
def what_it_saves(lab: Lab, seed: int) -> Mapping[str, float]:
    """A Llama of 4 layers on one batch of 2 pairs of random words; every figure is shared over padded. Two trainings
    each in turn, of which the fastest step counts: what else the machine does only adds to a time."""
    tokenizer = make_tokenizer(write, Settings(words=200))
    figures: dict[str, float] = {}
    for name, (p, r) in SHAPES.items():
        contrasts = random_pairs(tokenizer, p, r, 2, seed)
        runs = [stepped(tokenizer, contrasts, layout, seed) for _ in range(2) for layout in ("tree", "padded")]
        (tree, again), (padded, second) = runs[::2], runs[1::2]
        figures |= {
            f"{name}_tokens": tree.tokens / padded.tokens,
            f"{name}_expected": (p + r + r - 2) / (2 * p + 2 * r),
            f"{name}_apart": max(abs(a - b) for a, b in zip(tree.losses, padded.losses, strict=True)),
            f"{name}_time": min(tree.seconds, again.seconds) / min(padded.seconds, second.seconds),
        }
    return figures


@dataclass(frozen=True)
class Stepped:
    """What a few steps came to: tokens through the model a step, the loss of every step, the fastest one's seconds."""

    tokens: float
    losses: tuple[float, ...]
    seconds: float


def stepped(tokenizer: Any, contrasts: Sequence[Contrast], layout: str, seed: int, steps: int = 3) -> Stepped:
    """DPO on all contrasts at once, from random weights; tokens are counted where the model looks them up."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    policy = CausalLM(LlamaForCausalLM(config), tokenizer)
    with laid_out(layout):
        reference = score_contrasts(policy, contrasts, Limits())
    counted: list[int] = []
    policy.model.get_input_embeddings().register_forward_hook(lambda *call: counted.append(call[1][0].numel()))
    settings = TrainSettings(
        layout=layout, lr=1e-4, batch_size=len(contrasts), max_steps=steps, schedule="constant", warmup=0.0,
        tokens_per_microbatch=None,
    )  # fmt: skip
    result = train(policy, contrasts, objectives.dpo(0.1), references={"reference": reference}, settings=settings)
    losses, seconds = ([row[name] for row in result.metrics] for name in ("loss", "time/seconds"))
    return Stepped(sum(counted) / steps, tuple(losses), min(seconds))


def random_pairs(tokenizer: Any, p: int, r: int, n: int, seed: int) -> list[Contrast]:
    """n pairs of random words with prompts of p and responses of r tokens, their start and end tokens among them."""
    rng = random.Random(seed)
    words = sorted(" " + word[1:] for word in tokenizer.get_vocab() if word[0] == "Ġ" and word[1:].isalpha())

    def text(tokens: int, first: str) -> str:
        return first + "".join(rng.choices(words, k=tokens - 2))  # one more: the start, or the end

    return [
        pair(Slate(text(p, words[0]), (Candidate(text(r, a)), Candidate(text(r, b)))), 0, 1)
        for a, b in (rng.sample(words, 2) for _ in range(n))
    ]
