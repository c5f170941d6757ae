"""A policy whose "log-probability" of a response is one number, the reward.

r(x, y) is read by a linear head at the last token of prompt and response. Since ``logp`` gives it as an (N, 1)
tensor with a mask of ones, fitting one by Bradley-Terry is the ordinary trainer with the ordinary objective:
-log sigmoid(r(x, y_w) - r(x, y_l)).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from prefine.engine.batch import microbatches, row_lengths
from prefine.engine.ends import end_hidden
from prefine.engine.score import accepted, backbone, pad_rows, score_contrasts
from prefine.engine.trees import route as tree_route
from prefine.errors import InputError
from prefine.policies import lora
from prefine.policies.base import Batch, Limits, Row, Sampling
from prefine.policies.causal_lm import CausalLM
from prefine.policies.text import TextCodec
from prefine.policies.transformers_policy import TransformersPolicy
from prefine.slate import OTHER, Candidate, Contrast, Prompt, Slate, group


class RewardModel(TransformersPolicy):
    """A transformers sequence classifier with one output, on a language model's backbone."""

    kind: ClassVar[str] = "reward-model"
    what: ClassVar[str] = "reward model"
    auto: ClassVar[str] = "AutoModelForSequenceClassification"
    task: ClassVar[str] = "SEQ_CLS"

    def __init__(self, model: nn.Module, tokenizer: Any, *, base: str | None = None) -> None:
        super().__init__(model, tokenizer, base=base)
        text = self.model.config.get_text_config()
        if text.pad_token_id is None:
            text.pad_token_id = _padding(self.codec)
        self.pad: int = text.pad_token_id
        tokenizer.pad_token_id = self.pad

    @staticmethod
    def from_policy(policy: CausalLM, depth: float = 1.0) -> RewardModel:
        """The policy's own backbone (copied) under a head that begins at zero: every reward is 0 at first.

        ``depth``: the share of its layers that is kept, the first ones, for a smaller reward model.
        """
        from transformers import AutoModelForSequenceClassification

        source = policy.model
        config = copy.deepcopy(source.config)
        config.num_labels = 1
        text = config.get_text_config()
        layers = text.num_hidden_layers
        kept = max(1, round(depth * layers))
        if kept != layers:
            _shallower(text, kept)
        # transformers reads the last token that is not padding, so padding must not be the end token.
        text.pad_token_id = _padding(policy.codec)
        try:
            model = AutoModelForSequenceClassification.from_config(config, dtype=source.dtype)
            plain = lora.merged(copy.deepcopy(source)) if policy.has_adapter else source
            have = backbone(model).state_dict().keys()
            state = backbone(plain).state_dict()
            backbone(model).load_state_dict({n: w for n, w in state.items() if kept == layers or n in have})
            head = model.score
        except (ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"transformers has no reward model (sequence classifier) for {config.model_type} models",
                remedy="fit the reward model on another architecture (Llama, Qwen, GPT-2, GPT-NeoX, ...)",
            ) from error
        with torch.no_grad():
            head.weight.zero_()
        return RewardModel(model.to(policy.device).train(source.training), copy.deepcopy(policy.tokenizer))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | str = "float32",
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        policy = super().load(path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        if policy.model.config.num_labels != 1:
            raise InputError(
                f"this classifier has {policy.model.config.num_labels} outputs; a reward model has 1",
                remedy="give a reward model: a sequence classifier saved with num_labels=1",
                file=path,
            )
        return policy

    def encode(self, contrast: Contrast, limits: Limits) -> tuple[Row, ...]:
        """One row a member; its mask is (1,), since a response has one reward whatever its length."""
        return tuple(replace(row, mask=(1.0,)) for row in self.codec.rows(contrast, limits))

    def logp(self, batch: Batch, *, with_prompt: bool = False) -> tuple[Tensor, Tensor | None]:
        """((N, 1) rewards, None). Differentiable; float32 or better."""
        if with_prompt:
            raise ValueError("a reward model gives the tokens of a prompt no probability")
        return self._rewards(batch.rows)[:, None], None

    def cut(self, rows: Sequence[Sequence[Row]], budget: int | None) -> list[list[int]]:
        """Contrasts in micro-batches, by the tokens that ``logp`` will compute."""
        if getattr(self.model, "score", None) is None:
            return microbatches(row_lengths(rows), budget)
        return tree_route.cut(self.model, rows, budget, head=False)

    def reward(self, slates: Sequence[Slate], limits: Limits | None = None, budget: int = 16384) -> list[list[float]]:
        """One number for every candidate of every slate (what a judge needs)."""
        asked = [group(slate, range(len(slate)), [OTHER] * len(slate)) for slate in slates if len(slate) > 0]
        scored = iter(score_contrasts(self, asked, limits or Limits(), budget))
        return [[float(one[0]) for one in next(scored)] if len(slate) > 0 else [] for slate in slates]

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        raise InputError(
            "a reward model scores responses, it does not write any", remedy="sample from a language model"
        )

    def _rewards(self, rows: Sequence[Row]) -> Tensor:
        """(N,) the head's number at the last token of each row that is not padding, as plain transformers reads
        it (where padding and end are one token, as in some published models, that is the one before the end)."""
        head = getattr(self.model, "score", None)
        ids = [row.prompt + row.response for row in rows]
        reward_N1 = self._whole(ids) if head is None else head(end_hidden(self.model, [self._read(i) for i in ids]))
        reward_N = reward_N1[:, 0]
        return reward_N.float() if reward_N.dtype in (torch.float16, torch.bfloat16) else reward_N

    def _read(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A row up to the token its reward is read at: what comes after it, nobody reads."""
        return ids[: next((n for n in range(len(ids), 0, -1) if ids[n - 1] != self.pad), 1)]

    def _whole(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """(N, 1) of an encoder, which has its own way of reading a text as a whole."""
        padded = pad_rows(rows, device=self.device, fill=self.pad)
        inputs = {"attention_mask": padded.real_NL, "position_ids": padded.position_NL, "use_cache": False}
        taken = accepted(self.model)
        return self.model(padded.ids_NL, **{name: x for name, x in inputs.items() if name in taken}).logits


def _shallower(text: Any, layers: int) -> None:
    """A configuration with so many layers (some name the kind of every layer)."""
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and name.endswith("layer_types"):
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers


def _padding(codec: TextCodec) -> int:
    """A token to pad with that no finished response ends with."""
    tokenizer = codec.tokenizer
    wishes = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
    fitting = (i for i in (*wishes, *range(len(codec.stops) + 1)) if i is not None and i not in codec.stops)
    return next(i for i in fitting if codec.vocab_size is None or i < codec.vocab_size)
