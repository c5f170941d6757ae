"""The GPU's kernel for prefix trees, as far as it goes without one: its mask, its blocks, its arithmetic.

FlexAttention computes on a CPU too, by plain operations and with the mask alone (its blocks are looked at apart).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as library
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefine.engine.score import logp_of
from prefine.engine.trees import attention, flex
from prefine.engine.trees import route as tree_route
from prefine.engine.trees.layout import Layout
from prefine.engine.trees.pieces import by_path
from prefine.engine.trees.tree import Tree, grow, join
from prefine.policies.base import Row

V = 47
SHAPE: dict[str, Any] = {
    "vocab_size": V, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3, windows in one layer": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "gemma2, caps and windows": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SHAPE, sliding_window=4, attn_logit_softcapping=1.0, final_logit_softcapping=2.0,
            attn_implementation="eager",
        )
    ),
    "gpt-oss, sinks and windows": lambda: GptOssForCausalLM(
        GptOssConfig(
            **SHAPE, sliding_window=4, num_local_experts=2, num_experts_per_tok=1, attn_implementation="eager",
            experts_implementation="eager",
        )
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch refuses FlexAttention's gradient on a CPU, where it has no fast one; the plain one is right."""
    monkeypatch.setattr(library, "_validate_device", lambda *tensors: None)
    real = flex.works
    real.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield
    real.cache_clear()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[flex.Shape]:
    """The CPU takes the GPU's kernel; gives what it was asked for."""
    asked: list[flex.Shape] = []
    real = flex.works
    monkeypatch.setattr(flex, "works", lambda shape: (asked.append(shape), real(shape))[1])
    monkeypatch.setitem(attention.KERNELS, "cpu", flex.attention)
    costs = tree_route.Costs(piece=0.0, fixed=0.0, share=0.0, multiple=flex.BLOCK)
    monkeypatch.setitem(tree_route.COSTS, "cpu", costs)
    return asked


def seen(tree: Tree, window: int | None = None) -> np.ndarray:
    """(L, L) who sees whom, from the paths of the segments."""
    L = len(tree.ids_L)
    sees = np.zeros((L, L), dtype=bool)
    for i, segment in enumerate(tree.segments):
        path = np.concatenate([np.arange(tree.segments[s].start, tree.segments[s].end) for s in tree.path(i)])
        for q in range(segment.start, segment.end):
            before = path[: segment.depth + q - segment.start + 1]
            sees[q, before if window is None else before[-window:]] = True
    return sees


def forest(seed: int, trees: int, length: int, branches: int) -> Tree:
    """Trees that branch anywhere, side by side."""
    rng = np.random.default_rng(seed)
    rows: list[list[int]] = []
    for t in range(trees):
        mine = [[t, *rng.integers(2, V, int(rng.integers(1, length))).tolist()]]
        for _ in range(int(rng.integers(0, branches + 1))):
            cut = mine[int(rng.integers(0, len(mine)))]
            mine.append([*cut[: int(rng.integers(1, len(cut) + 1))], *rng.integers(2, V, length // 2).tolist()])
        rows += mine
    return join(grow(rows, worth=1 << 30))


trees = st.builds(
    forest, st.integers(0, 1 << 30), st.integers(1, 4), st.sampled_from([3, 20, 200]), st.sampled_from([0, 2, 7])
)


def deep() -> list[Row]:
    """A tree of depth 6 that branches in two at every step."""
    rng = np.random.default_rng(2)
    prompt, level = tuple(rng.integers(2, V, 5).tolist()), [()]
    for _ in range(5):
        level = [b + tuple(rng.integers(2, V, int(rng.integers(1, 3))).tolist()) for b in level for _ in range(2)][:12]
    return [Row(prompt, response, (1.0,) * len(response)) for response in level] + [
        Row((9, 9, 4), tuple(rng.integers(2, V, 150).tolist()), (1.0,) * 150)
    ]


# -- the mask and its blocks


@given(trees, st.sampled_from([None, 1, 4, 60]))
@settings(max_examples=40, deadline=None)
def test_two_numbers_a_column_say_who_sees_whom(tree: Tree, window: int | None) -> None:
    mask = flex.RowMask.of(tree, torch.device("cpu"))
    at = torch.arange(len(tree.ids_L))
    said = mask.mask_mod(window)(torch.tensor(0), torch.tensor(0), at[:, None], at[None, :])
    assert np.array_equal(said.numpy(), seen(tree, window))


@given(trees, st.sampled_from([None, 1, 4, 60]), st.sampled_from([4, 16, 64]))
@settings(max_examples=60, deadline=None)
def test_blocks_are_whole_mixed_or_empty(tree: Tree, window: int | None, block: int) -> None:
    filled = flex.filled(tree, block)
    blocks = flex.Blocks.of(*flex.columns(filled), window, block)
    K = len(filled.ids_L) // block
    inside = seen(filled, window).reshape(K, block, K, block).transpose(0, 2, 1, 3).reshape(K, K, -1)
    assert not (blocks.whole_KK & blocks.mixed_KK).any()
    assert inside[blocks.whole_KK].all(), "the kernel does not look at the mask there"
    assert not inside[~(blocks.whole_KK | blocks.mixed_KK)].any(), "the kernel does not look there"
    if window is None:
        assert np.array_equal(blocks.whole_KK, inside.all(-1))
        assert np.array_equal(blocks.mixed_KK, inside.any(-1) & ~inside.all(-1))


def test_the_library_reads_the_blocks_as_they_were_meant() -> None:
    tree = flex.filled(forest(3, 4, 400, 6))
    blocks = flex.Blocks.of(*flex.columns(tree))
    given_ = flex.RowMask.of(tree, torch.device("cpu")).block_mask(None)
    assert np.array_equal(given_.to_dense()[0, 0].bool().numpy(), blocks.mixed_KK | blocks.whole_KK)
    theirs = library.create_block_mask(given_.mask_mod, 1, 1, len(tree.ids_L), len(tree.ids_L), device="cpu")
    for name in ("kv", "full_kv", "q", "full_q"):
        counts, which = getattr(given_, f"{name}_num_blocks")[0, 0], getattr(given_, f"{name}_indices")[0, 0]
        other_counts, other = getattr(theirs, f"{name}_num_blocks")[0, 0], getattr(theirs, f"{name}_indices")[0, 0]
        assert counts.tolist() == other_counts.tolist(), name
        for count, a, b in zip(counts.tolist(), which.tolist(), other.tolist(), strict=True):
            assert sorted(a[:count]) == sorted(b[:count]), name


def test_a_row_is_filled_up_with_columns_that_see_only_themselves() -> None:
    tree = forest(0, 3, 20, 2)
    length = len(tree.ids_L)
    filled = flex.filled(tree)
    assert len(filled.ids_L) % flex.BLOCK == 0
    assert filled.columns is tree.columns
    assert np.array_equal(seen(filled)[:length, :length], seen(tree))
    assert not seen(filled)[length:, :length].any()
    assert not seen(filled)[:length, length:].any()
    assert seen(filled).diagonal().all(), "a column that saw nothing would be divided by zero"
    assert flex.filled(filled) is filled


# -- the arithmetic


@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("cap", [None, 2.0], ids=["", "cap"])
@pytest.mark.parametrize("window", [None, 7], ids=["", "window"])
def test_attention_is_that_of_the_paths(window: int | None, cap: float | None, sinks: bool) -> None:
    layout = Layout.of(flex.filled(forest(1, 3, 60, 5)))
    L = len(layout.tree.ids_L)
    generator = torch.Generator().manual_seed(0)
    sizes = [(1, 4, L, 8), (1, 2, L, 8), (1, 2, L, 6), *([(4,)] if sinks else [])]
    draws = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    pull = torch.randn(1, L, 4, 6, generator=generator, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for kernel, row in ((flex.fused, flex.mask_of(layout, torch.device("cpu"))), (by_path, layout)):
        leaves = [x.clone().requires_grad_() for x in draws]
        more = {"window": window, "cap": cap, "sinks_H": leaves[3] if sinks else None}
        out = kernel(*leaves[:3], row, 0.4, **more)
        found.append([out, *torch.autograd.grad(out, leaves, pull)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def gradients(model: Any, rows: list[Row], route: str) -> tuple[Tensor, dict[str, Tensor]]:
    logp_NT, _ = logp_of(model, rows, route=route)
    weight_NT = torch.rand(logp_NT.shape, generator=torch.Generator().manual_seed(5)) - 0.5
    loss = torch.nn.functional.softplus((weight_NT * logp_NT).sum(-1)).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", MODELS)
def test_models_give_the_padded_numbers(
    name: str, checkpointing: bool, as_on_a_gpu: list[flex.Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Uncompiled, torch traces a ``score_mod`` anew at each call, and under checkpointing wrongly: there capped
    scores have to fail their trial, and the numbers are right all the same.)"""
    capped = name.startswith("gemma2")
    if not (checkpointing and capped):
        monkeypatch.setattr(flex, "works", lambda shape: (as_on_a_gpu.append(shape), True)[1])
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():  # random start weights are so small that attention hardly matters: make it matter
        for parameter in model.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in model.model.layers:
            layer.training = True
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* does not share prefixes")
        warnings.filterwarnings("ignore", message="the fused attention kernel cannot")
        plain, expected = gradients(model, deep(), "padded")
        ours, found = gradients(model, deep(), "tree")
    assert as_on_a_gpu, "the kernel was never asked"
    assert abs(ours - plain) <= 1e-5 * abs(plain)
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    for part, gradient in expected.items():
        assert (found[part] - gradient).norm() <= 1e-4 * max(gradient.norm(), 1e-2 * size), part


def test_a_row_is_masked_once_for_all_layers(as_on_a_gpu: list[flex.Shape], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = flex.Blocks.of
    monkeypatch.setattr(flex.Blocks, "of", lambda *a: (made.append(1), real(*a))[1])
    model = MODELS["llama"]().eval()
    logp_of(model, deep(), route="tree")
    made.clear()
    with torch.no_grad():
        logp_of(model, deep(), route="tree")
    assert len(made) == 1


# -- where it cannot be used


def test_a_kernel_is_tried_forward_and_backward_before_it_is_trusted() -> None:
    shape = flex.Shape(torch.device("cpu"), torch.float32, (4, 2, 8, 6), (0.3, None, True, True), gradient=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the fused attention kernel cannot")
        assert flex.works(shape)


def test_a_kernel_that_fails_its_trial_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong numbers and errors of the compiler alike: plain arithmetic, a warning, the right numbers."""
    model = MODELS["llama"]().eval()
    with torch.no_grad():
        expected, _ = logp_of(model, deep(), route="padded")

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("out of resource: shared memory")

    def wrong(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return query.transpose(1, 2) * 1.0

    monkeypatch.setitem(attention.KERNELS, "cpu", flex.attention)
    costs = tree_route.Costs(piece=0.0, fixed=0.0, share=0.0, multiple=flex.BLOCK)
    monkeypatch.setitem(tree_route.COSTS, "cpu", costs)
    monkeypatch.setattr(flex, "works", flex.works.__wrapped__)  # not remembered
    for kernel, why in ((broken, "shared memory"), (wrong, "off by")):
        monkeypatch.setattr(flex, "fused", kernel)
        with pytest.warns(UserWarning, match=why), torch.no_grad():
            found, _ = logp_of(model, deep(), route="tree")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_gpu_or_a_compiler_rows_are_padded() -> None:
    assert not flex.ready(torch.device("cpu"))
    cuda = tree_route.COSTS["cuda"]
    assert cuda.ready is flex.ready
    assert cuda.multiple == flex.BLOCK
