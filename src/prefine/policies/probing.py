"""Looking at what a language model's states hold: the state of a response's last token, and a linear probe on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prefine.policies.base import Limits
from prefine.slate import Contrast


@torch.no_grad()
def last_states(policy: Any, contrasts: Sequence[Contrast], chunk: int = 64) -> np.ndarray:
    """(N, D) the last layer's states at the last tokens of all members of the contrasts, in order."""
    from prefine.engine.batch import collate_contrasts, encode_contrasts

    found = []
    for at in range(0, len(contrasts), chunk):
        some = list(contrasts[at : at + chunk])
        batch = collate_contrasts(some, encode_contrasts(policy, some, Limits()))
        view = policy.view(batch)
        rows = torch.arange(len(batch.rows), device=view.length_N.device)
        found.append(view.states_NSD[rows, view.length_N].float().cpu().numpy())
    return np.concatenate(found)


def probe(states_ND: np.ndarray, class_N: np.ndarray, known: int, ridge: float = 10.0) -> float:
    """Accuracy of ridge regression on the classes' indicators: fitted on the first ``known`` rows, told on the rest.

    >>> probe(np.tile(np.eye(2), (10, 1)), np.tile([0, 1], 10), known=10)
    1.0
    """
    x = np.hstack([(states_ND - states_ND.mean(0)) / (states_ND.std(0) + 1e-6), np.ones((len(states_ND), 1))])
    gram = x[:known].T @ x[:known] + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x[:known].T @ np.eye(int(class_N.max()) + 1)[class_N[:known]])
    return float(((x[known:] @ weights).argmax(1) == class_N[known:]).mean())
