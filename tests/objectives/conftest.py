"""A tiny language model in double precision and some rows, for objectives that look into models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from prefine.engine.views import TokenView
from prefine.policies.base import Row


def tiny(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=23, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


@dataclass(frozen=True)
class Looked:
    """Two models, and rows that they can be looked at on."""

    model: Any
    other: Any
    rows: tuple[Row, ...]

    @property
    def mask(self) -> Tensor:
        width = max(len(row.mask) for row in self.rows)
        return torch.tensor([[*row.mask, *[0.0] * (width - len(row.mask))] for row in self.rows], dtype=torch.float64)

    def view(self, model: Any = None, *, deep: bool = False) -> TokenView:
        return TokenView(self.model if model is None else model, self.rows, self.mask, deep=deep)


@pytest.fixture
def looked() -> Looked:
    rows = (
        Row((1, 2, 3), (4, 5, 6, 7), (1.0, 1.0, 1.0, 1.0)),
        Row((1, 2), (8, 9), (1.0, 1.0)),
        Row((5,), (10, 11, 12), (1.0, 0.0, 1.0)),  # the middle token does not count
    )
    return Looked(tiny(), tiny(1), rows)
