"""A language model's logits read as Q-values: how good it takes a state to be, and what a token was worth.

    Q(s, a) = beta logit(a),   V(s) = beta logsumexp(logits),   r(s_t, a_t) = Q(s_t, a_t) - V(s_{t+1})

The rewards of a response add up to beta log pi(y|x) + V(first state) - V(last state).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefine.policies.base import Limits
from prefine.slate import Contrast


@torch.no_grad()
def state_values(policy: Any, contrast: Contrast, beta: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """(V of the T + 1 states, rewards of the T tokens) for every member of a contrast."""
    module = policy.module
    device, found = next(module.parameters()).device, []
    for row in policy.encode(contrast, Limits()):
        ids = torch.tensor([[*row.prompt, *row.response]], device=device)
        logits_LV = module(input_ids=ids).logits[0].cpu()
        found.append(q_values(logits_LV[len(row.prompt) - 1 :], torch.tensor(row.response), beta))
    return found


def q_values(logits_SV: Tensor, ids_T: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(V of the T + 1 states, rewards of the T tokens), from the logits at each state.

    >>> logits = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> value, reward = q_values(logits, torch.tensor([1]))  # log 2, 1 + log 2; 0 - (1 + log 2)
    >>> [round(float(x), 4) for x in (*value, *reward)]
    [0.6931, 1.6931, -1.6931]
    """
    value_S = beta * logits_SV.double().logsumexp(-1)
    q_T = beta * logits_SV.double()[: len(ids_T)].gather(-1, ids_T[:, None])[:, 0]
    return value_S.float(), (q_T - value_S[1:]).float()
