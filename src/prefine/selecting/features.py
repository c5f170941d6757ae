"""What selectors see inside a model: features of responses, and log-probabilities under dropout on the last layer.

Two judges, for ``run.judge(..., role="view")``. A language model's features are the mean of its last hidden states
over the response (the prompt before it), so that its logits are linear in what the features average; a table's are its
own, or one a cell. Dropout is put on the same thing, right under the output layer: one pass through the backbone
serves all draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prefine.engine.batch import collate_contrasts, encode_contrasts, microbatches, row_lengths
from prefine.engine.score import evaluating, head_logp
from prefine.engine.views import TokenView
from prefine.errors import InputError
from prefine.fingerprint import seed_of
from prefine.judging.models import everyone, live, whole
from prefine.policies.base import Limits
from prefine.policies.tabular import TableView
from prefine.slate import Feedback, Slate, scores

Columns = Mapping[str, Feedback]
TOKENS = 8192
"""Tokens of a forward pass."""


@singledispatch
def features_of(view: Any) -> Tensor:
    """(N, D) features of the responses of a view."""
    raise InputError("this policy shows no features", remedy="use a causal language model, or another selector")


@features_of.register
def _(view: TokenView) -> Tensor:
    states_NTD = view.states_NSD[:, 1:]  # place 0 is the prompt's last token
    mask_NT1 = view.mask_NT.to(states_NTD)[..., None]
    mean_ND = ((states_NTD * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1)).float()
    return mean_ND / mean_ND.shape[1] ** 0.5  # of length about 1, as designs assume


@features_of.register
def _(view: TableView) -> Tensor:
    return view.table.linear()[1][view.prompt_N, view.action_N]  # type: ignore[no-any-return]


@singledispatch
def dropped_logp(view: Any, rate: float) -> Tensor:
    """(N,) log-probabilities of the responses, the output layer reading a randomly thinned input."""
    raise InputError("this policy has no last layer to thin", remedy="use a causal language model")


@dropped_logp.register
def _(view: TokenView, rate: float) -> Tensor:
    thin_MD = F.dropout(view.states_NSD[view.row_M, view.slot_M], rate)
    logp_M = head_logp(view.head, thin_MD, view.target_M).double()
    return logp_M.new_zeros(len(view.mask_NT)).index_add(0, view.row_M, logp_M)


@dropped_logp.register
def _(view: TableView, rate: float) -> Tensor:
    base_PA, features_PAD, theta_D = view.table.linear()
    logits_PA = base_PA + F.dropout(features_PAD, rate) @ theta_D
    there_PA = view.table.there_PA
    return logits_PA.masked_fill(~there_PA, -torch.inf).log_softmax(-1)[view.prompt_N, view.action_N]


@dataclass(frozen=True)
class Features:
    """The column "features": a vector a response; a random projection of it where it is longer than ``dimensions``."""

    policy: Any
    dimensions: int = 128
    name: str = "features"
    limits: Limits = Limits()  # noqa: RUF009 (frozen)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        found = looked(live(self.policy), slates, self.limits, lambda view, _: self._projected(features_of(view)))
        return [{self.name: Feedback("vector", tuple(tuple(map(float, x)) for x in rows))} for rows in found]

    def _projected(self, x_ND: Tensor) -> Tensor:
        size = x_ND.shape[1]
        if size <= self.dimensions:
            return x_ND
        # The same projection for everybody: fixed by the two sizes.
        drawn = np.random.default_rng([size, self.dimensions]).normal(size=(size, self.dimensions))
        return x_ND @ torch.as_tensor(drawn / self.dimensions**0.5, dtype=x_ND.dtype, device=x_ND.device)


@dataclass(frozen=True)
class Doubt:
    """Columns "mean" and "deviation" of log pi(y|x) over draws of dropout on the last layer, and "base": log ref(y|x).

    Token sums. The reference is scored without dropout.
    """

    policy: Any
    reference: Any
    draws: int = 10
    rate: float = 0.05
    seed: int = 0
    limits: Limits = Limits()  # noqa: RUF009 (frozen)

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        from prefine.engine.score import score_contrasts

        def drawn(view: Any, seed: int) -> Tensor:
            torch.manual_seed(seed)
            return torch.stack([dropped_logp(view, self.rate) for _ in range(self.draws)], dim=1)

        found = looked(live(self.policy), slates, self.limits, drawn, self.seed)
        base = iter(score_contrasts(live(self.reference), [everyone(s) for s in slates if len(s)], self.limits))
        return [
            {
                "mean": scores([float(x.mean()) for x in rows]),
                "deviation": scores([float(x.std(ddof=1)) if len(x) > 1 else 0.0 for x in rows]),
                "base": scores([whole(logp_T) for logp_T in next(base)] if len(slate) else []),
            }
            for slate, rows in zip(slates, found, strict=True)
        ]


def looked(
    policy: Any, slates: Sequence[Slate], limits: Limits, look: Callable[[Any, int], Tensor], seed: int = 0
) -> list[Sequence[np.ndarray]]:
    """What ``look(view, seed)`` says of the candidates of every slate, one array a candidate; many in a forward pass.

    The seed of a batch comes from what is in it, so that the same slates get the same dropout.
    """
    if not hasattr(policy, "view"):
        raise InputError(
            f"a policy of kind {getattr(policy, 'kind', '?')!r} cannot be looked into",
            remedy="use a causal language model, or a selector that reads log-probabilities alone",
        )
    asked = [i for i, slate in enumerate(slates) if len(slate)]
    groups = [everyone(slates[i]) for i in asked]
    rows = encode_contrasts(policy, groups, limits)
    found: list[Sequence[np.ndarray]] = [() for _ in slates]
    with torch.no_grad(), evaluating(policy.module), torch.random.fork_rng():
        for batch in microbatches(row_lengths(rows), TOKENS):
            view = policy.view(collate_contrasts(groups, rows, batch))
            names = [[slates[asked[i]].id, *(c.text for c in slates[asked[i]].candidates)] for i in batch]
            values = iter(look(view, seed_of(seed, names) % 2**63).double().cpu().numpy())
            for i in batch:
                found[asked[i]] = [next(values) for _ in rows[i]]
    return found
