"""The last layer computes only what is read, and every number and gradient is that of the whole computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefine.engine.score import logp_of
from prefine.engine.trees import narrow
from prefine.engine.trees import route as tree_route
from prefine.policies.base import Row
from prefine.policies.lora import LoraSettings, attach

V = 31
IDS: dict[str, Any] = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**IDS, **SHAPE, num_key_value_heads=2, head_dim=8)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**IDS, **SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=4, attn_implementation="eager")
    ),
    "gpt-neox, parallel residual": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **SHAPE)),
}
LAST_PROJECTION = {"llama": "down_proj", "qwen3": "down_proj", "gemma2": "down_proj"}
ROWS = [  # eight shared prompt tokens, of which only the last is read
    Row((2, 3, 4, 5, 6, 7, 8, 9), (10, 11, 12), (1.0, 1.0, 1.0)),
    Row((2, 3, 4, 5, 6, 7, 8, 9), (13, 14), (1.0, 1.0)),
]
READ = 4  # the last prompt token, two of the first response (its last predicts nothing), one of the second


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def gpt2() -> Any:
    """Its backbone insists on as many columns coming out as went in."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**IDS, n_embd=32, n_layer=3, n_head=4)).eval()


def llama_that_copies_its_input() -> Any:
    """The first part of its last layer is not given the layer's very input."""
    model = model_of("llama")
    layer = model.model.layers[-1]
    plain = type(layer).forward
    layer.forward = lambda hidden_states, *args, **kwargs: plain(layer, 1.0 * hidden_states, *args, **kwargs)
    return model


def scored(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities, and the gradient of a sum of them that differs from token to token."""
    model.zero_grad()
    logp_NT, _ = logp_of(model, ROWS, route="tree")
    (logp_NT * torch.arange(1.0, 7.0).view(2, 3)).sum().backward()
    return logp_NT.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def tokens_through(module: torch.nn.Module, run: Callable[[], Any]) -> int:
    """How many tokens a module was given."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[:-1].numel()))
    try:
        run()
    finally:
        handle.remove()
    return sum(seen)


@pytest.mark.parametrize("name", MODELS)
def test_numbers_and_gradients_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    assert tree_route.can_narrow(model)
    logp, gradient = scored(model)
    monkeypatch.setattr(narrow, "WORTH", 0.0)
    whole_logp, whole_gradient = scored(model)
    torch.testing.assert_close(logp, whole_logp, rtol=1e-5, atol=1e-6)
    assert float((gradient - whole_gradient).norm() / whole_gradient.norm()) < 1e-5


@pytest.mark.parametrize("name", LAST_PROJECTION)
def test_only_the_last_layer_is_spared_and_really_is(name: str) -> None:
    model = model_of(name)
    scored(model)  # the trial is behind us
    layers = model.model.layers
    columns = 8 + 2 + 1
    through = [tokens_through(getattr(layer.mlp, LAST_PROJECTION[name]), lambda: scored(model)) for layer in layers]
    assert through == [columns, columns, READ]
    assert tokens_through(layers[-1].self_attn.k_proj, lambda: scored(model)) == columns
    assert tokens_through(layers[-1].self_attn.o_proj, lambda: scored(model)) == READ


def test_an_adapter_is_narrowed_like_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach(model_of("llama"), LoraSettings(rank=2), "CAUSAL_LM")
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.add_(0.1 * torch.randn_like(p)) if "lora_B" in n else None
    logp, gradient = scored(model)
    assert tree_route.can_narrow(model)
    monkeypatch.setattr(narrow, "WORTH", 0.0)
    whole_logp, whole_gradient = scored(model)
    torch.testing.assert_close(logp, whole_logp, rtol=1e-5, atol=1e-6)
    assert float((gradient - whole_gradient).norm() / whole_gradient.norm()) < 1e-5


def test_a_layer_that_is_computed_again_is_left_whole() -> None:
    model = model_of("llama")
    layers = model.config.num_hidden_layers
    assert narrow.last_layer(model.model, layers) is model.model.layers[-1]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert narrow.last_layer(model.model, layers) is None


@pytest.mark.parametrize("make", [gpt2, llama_that_copies_its_input])
def test_a_model_that_is_built_otherwise_is_left_whole(make: Callable[[], Any]) -> None:
    model = make()
    assert not tree_route.can_narrow(model)
    logp, _ = scored(model)
    padded, _ = logp_of(model, ROWS, route="padded")
    torch.testing.assert_close(logp, padded.detach(), rtol=1e-4, atol=1e-5)
