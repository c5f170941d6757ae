"""The models: Llama shapes with random weights, as directories that both sides load.

Two sets of weights a shape: the policy's (seed 0) and the reference's (seed 1), so that a loss is not just the
log 2 of two equal models.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.compare import BUILD

Product = tuple[int, int, int, int]
"""Matrix multiplies alike: rows, in, out, how many."""


@dataclass(frozen=True)
class Shape:
    """A Llama: ``hidden`` wide, ``layers`` deep; embedding and head are one matrix where ``tied``."""

    name: str
    vocabulary: int = 8192
    hidden: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 6
    inner: int = 1024
    context: int = 4096
    tied: bool = True

    @property
    def layer_weights(self) -> int:
        """Numbers in the matrices of one layer, each multiplied with every token."""
        kv = self.hidden * self.kv_heads // self.heads
        return 2 * self.hidden * (self.hidden + kv) + 3 * self.hidden * self.inner

    def products(self, tokens: int, scored: int) -> list[Product]:
        """Matrix multiplies of one forward pass; ``scored`` tokens reach the head."""
        kv = self.hidden * self.kv_heads // self.heads
        return [
            (tokens, self.hidden, self.hidden, 2 * self.layers), (tokens, self.hidden, kv, 2 * self.layers),
            (tokens, self.hidden, self.inner, 2 * self.layers), (tokens, self.inner, self.hidden, self.layers),
            (scored, self.hidden, self.vocabulary, 1),
        ]  # fmt: skip

    @property
    def parameters(self) -> int:
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return tables + self.layers * self.layer_weights

    def told(self) -> dict[str, Any]:
        return {**asdict(self), "parameters": self.parameters}


SMALL = Shape("llama-14m")
LARGE = Shape("llama-69m", vocabulary=151936)
QWEN = Shape("qwen-0.5b", 151936, hidden=896, layers=24, heads=14, kv_heads=2, inner=4864)
TINY = Shape("llama-tiny", hidden=32, layers=2, heads=2, kv_heads=2, inner=64)


def directory(shape: Shape, texts: data.Texts, seed: int = 0) -> Path:
    """The model with the texts' tokenizer, made once."""
    form = hashlib.sha256(repr(shape).encode()).hexdigest()[:8]
    here = BUILD / "models" / f"{shape.name}-{form}-{texts.name}-{texts.key}-seed{seed}"
    if here.exists():
        return here
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = data.tokenizer(texts, min(shape.vocabulary, 8192))
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=shape.tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    making = here.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    model.save_pretrained(making)
    tokenizer.save_pretrained(making)
    making.rename(here)
    return here
