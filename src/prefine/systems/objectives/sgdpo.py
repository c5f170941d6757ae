"""057 SGDPO: self-guided direct preference optimisation. arXiv 2505.12435 (ACL 2025).

DPO moves both sides of a pair with the same force. Here the loss has two logistic halves; in each, one side is the
whole response with gradient and the other a "pilot": the detached reward of a random part of that response's tokens.

    u1 = beta (R_w - sg[P_l]),   u2 = beta (sg[P_w] - R_l),   L = -1/2 log sigma(u1) - 1/2 log sigma(u2)

R are sums of log pi/ref over all tokens; P_w is the same over k_w = max(int(m rho_w), 1) random tokens of the
chosen response, P_l over k_l of the rejected one, m the shorter of the two lengths: so the longer response is
always thinned, which takes away part of the bias towards length. Pilots are drawn anew at every forward.

The chosen rises with the force 1/2 beta sigma(-u1) and the rejected falls with 1/2 beta sigma(-u2). A small rho_w
makes P_w small, so u2 small and the fall strong; a small rho_l makes the rise strong. With rho = 1 and equal lengths
this is DPO with half the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prefine import objectives
from prefine.artifacts import Contrasts, PolicyHandle
from prefine.catalogue import claim, system
from prefine.claims import Lab
from prefine.objectives import Objective, Scores
from prefine.run import Run


@system(
    57, "sgdpo", "SGDPO: self-guided direct preference optimization for language model alignment",
    family="objective", paper="arXiv 2505.12435", on_worlds={"lr": 1e-3, "epochs": 2},
    question="implicit-reward", granularity="token", beta="adaptive", likelihood="guarded",
)  # fmt: skip
def sgdpo(
    run: Run,
    policy: PolicyHandle,
    pairs: Contrasts,
    *,
    beta: float = 0.1,
    rho_chosen: float = 0.6,
    rho_rejected: float = 0.9,
    label_smoothing: float = 0.0,
) -> PolicyHandle:
    """Two half losses, each against a frozen, randomly thinned copy of the other side.

    Use it to steer how strongly chosen responses are raised and rejected ones lowered: lower rho_rejected raises
    the chosen more, lower rho_chosen lowers the rejected more. Not on very short responses, where a thinned copy
    is a token or two; try dpo first, since the two ratios want tuning (the paper's grid is 0.6 to 1.0 a model).

    rho_chosen, rho_rejected: share of the tokens in each side's pilot.
    """
    return run.train(policy, pairs, objective=objectives.self_guided(beta, rho_chosen, rho_rejected, label_smoothing))


@claim(
    "sgdpo",
    statement="The two ratios steer the balance of a pair, which DPO leaves as it is: on a softmax a position, with "
    "pairs that differ everywhere, the mean chosen reward over the mean |rejected reward| after 300 equal steps is "
    "ordered (rho_w, rho_l) = (0.6, 1) < (1, 1) < (1, 0.6) with gaps above 0.02 in every seed, and DPO, whose forces "
    "are twice as large, is (1, 1) at half the step.",
    baseline="dpo",
    seeds=(0, 1, 2, 3, 4),
    holds=lambda f: (
        bool(np.all(f["even"] - f["less_chosen"] > 0.02) and np.all(f["less_rejected"] - f["even"] > 0.02))
        and bool(np.all(abs(f["dpo"] - f["even"]) < 1e-9))
    ),
)
def balance(lab: Lab, seed: int) -> Mapping[str, float]:
    """32 prompts, 10 positions, 6 tokens, a random start that is the reference."""
    arms: dict[str, tuple[Objective, float]] = {
        "less_chosen": (objectives.self_guided(0.1, 0.6, 1.0), 1.0),
        "even": (objectives.self_guided(0.1, 1.0, 1.0), 1.0),
        "less_rejected": (objectives.self_guided(0.1, 1.0, 0.6), 1.0),
        "dpo": (objectives.dpo(0.1), 0.5),
    }
    return {name: by_position(objective, step, seed) for name, (objective, step) in arms.items()}


def by_position(objective: Objective, step: float, seed: int, steps: int = 300) -> float:
    """Plain gradient descent on the logits of every position; mean chosen over mean |rejected| log-ratio."""
    prompts, length, tokens = 32, 10, 6
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    chosen = rng.integers(tokens, size=(prompts, length))
    rejected = (chosen + rng.integers(1, tokens, size=(prompts, length))) % tokens
    ids_NT = torch.as_tensor(np.stack([chosen, rejected], 1).reshape(2 * prompts, length))
    logits = torch.as_tensor(rng.normal(scale=0.5, size=(prompts, length, tokens))).requires_grad_()
    prompt_N, role_N = torch.arange(prompts).repeat_interleave(2), torch.tensor([1, -1]).repeat(prompts)

    def logp_NT() -> Tensor:
        return logits.log_softmax(-1)[prompt_N].gather(-1, ids_NT[..., None])[..., 0]

    start_NT = logp_NT().detach()
    for _ in range(steps):
        now = Scores(logp_NT(), torch.ones_like(start_NT), role_N, prompt_N, {"reference": start_NT})
        (slope,) = torch.autograd.grad(objective(now).mean(now) * prompts, logits)  # a whole step for every prompt
        with torch.no_grad():
            logits -= step * slope
    up_G, down_G = now.sides((logp_NT() - start_NT).sum(-1).detach())
    return float(up_G.mean() / down_G.mean().abs())
