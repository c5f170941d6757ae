"""A policy whose "log-probability" of a token is a value: what it expects the response to be worth from there on.

V_t is read by a linear head at the place that predicts the t-th response token, so it has seen the prompt and the
tokens before it and not the token itself. Since ``logp`` gives it where a policy gives log-probabilities, storing the
values of a batch of samples and fitting them are the ordinary verbs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefine.engine.batch import microbatches, row_lengths
from prefine.engine.ends import hidden_before
from prefine.errors import InputError
from prefine.policies.base import Batch, Limits, Row
from prefine.policies.causal_lm import CausalLM
from prefine.policies.reward_model import RewardModel
from prefine.policies.transformers_policy import TransformersPolicy
from prefine.slate import Contrast


class ValueModel(RewardModel):
    """A transformers sequence classifier with one output, read before every response token."""

    kind: ClassVar[str] = "value-model"
    what: ClassVar[str] = "value model"

    @staticmethod
    def of(policy: CausalLM | RewardModel) -> ValueModel:
        """A reward model's backbone and head; or a policy's backbone under a head that begins at zero."""
        if not isinstance(policy, TransformersPolicy):
            raise InputError(
                f"a policy of kind {getattr(policy, 'kind', '?')!r} has no backbone to read values from",
                remedy="train a language model, or use a method without a value model",
            )
        model = policy if isinstance(policy, RewardModel) else RewardModel.from_policy(policy)
        return ValueModel(model.model, copy.deepcopy(model.tokenizer), base=model.base)

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One row a member, as the policy that wrote it has it."""
        return self.codec.rows(contrast, limits)

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """((N, T) values, None), 0 where a token does not count. Differentiable; float32 or better."""
        if with_prompt:
            raise ValueError("a value model gives the tokens of a prompt no probability")
        head = getattr(self.model, "score", None)
        if head is None:
            raise InputError(
                f"{type(self.model).__name__} has no head that can be read at every token",
                remedy="start the value model from a decoder (Llama, Qwen, GPT-2, ...)",
            )
        value_NT = head(hidden_before(self.model, batch.rows, batch.mask_NT.shape[1]))[..., 0]
        value_NT = value_NT.float() if value_NT.dtype in (torch.float16, torch.bfloat16) else value_NT
        return value_NT * batch.mask_NT.to(value_NT), None

    def cut(self, rows: Sequence[Sequence[Row]], budget: int | None) -> list[list[int]]:
        return microbatches(row_lengths(rows), budget)

    def reward(self, *arguments: Any, **options: Any) -> list[list[float]]:
        raise InputError(
            "a value model says what it expects before every token; it gives no rewards",
            remedy="give the reward model as a judge",
        )
