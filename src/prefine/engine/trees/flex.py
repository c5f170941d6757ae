"""Tree attention on a GPU: one fused FlexAttention kernel a layer, whatever the shape of the trees.

A tree is laid out depth first, so the descendants of a column's segment follow it directly and end at one place.
With ``stop[k]`` that place, query q sees key k just where

    k <= q < stop[k]                      (in k's segment that is the causal mask; behind it, its descendants)
    depth[q] - depth[k] < window          (where a model slides a window, along the path)

Two numbers a column say everything, and which blocks of 128 x 128 columns are empty, whole or mixed follows from
the least and the largest stop and depth of a block: exact without a window, and with one never calling a block
empty or whole that is not. The mask itself (L x L) is never made.

Capped scores are a ``score_mod``. Attention sinks take part in the softmax and give nothing, so what they leave to
the others is known from the log-normaliser l of a query: o' = o sigmoid(l - sink).

The kernel is compiled by ``torch.compile`` for the machine it runs on, so before it is trusted with a shape it is
*tried*, forward and backward, against plain arithmetic there; where it fails, plain arithmetic stays.

Shapes: L columns, K = L / 128 blocks, H heads, G key-value heads, E size of a head.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from prefine.engine.trees.layout import Layout
from prefine.engine.trees.pieces import by_path
from prefine.engine.trees.tree import Segment, Tree, grow, join

BLOCK = 128
"""Columns of a block: the kernel's own, and what packed rows are filled up to."""

RECOMPILES = 64
"""Kernels one process may need: each combination of head sizes, windows, caps, gradient or none is one."""


def filled(tree: Tree, multiple: int = BLOCK) -> Tree:
    """The packed row with a root of its own for the columns up to the next multiple, which nobody reads.

    Lengths then come from a small set, as compiled kernels and memory pools like them, and no block is cut. There
    are at least two blocks: a compiler makes a kernel of its own for one.
    """
    length = len(tree.ids_L)
    lacking = max(-length % multiple, 2 * multiple - length if multiple > 1 else 0)
    if not lacking:
        return tree
    idle = Segment(length, length + lacking, length + lacking, 0, -1)
    return replace(
        tree, ids_L=np.concatenate([tree.ids_L, np.zeros(lacking, np.int64)]), segments=(*tree.segments, idle)
    )


# -- the mask


@dataclass(frozen=True)
class Blocks:
    """Which blocks of keys (second axis) each block of queries (first) has to look at, and which of them whole."""

    mixed_KK: np.ndarray
    whole_KK: np.ndarray

    @staticmethod
    def of(stop_L: np.ndarray, depth_L: np.ndarray, window: int | None = None, block: int = BLOCK) -> Blocks:
        """L is a multiple of the block."""
        stop_KB, depth_KB = stop_L.reshape(-1, block), depth_L.reshape(-1, block)
        at = np.arange(len(stop_KB))
        first_K1, last_K1 = (at * block)[:, None], ((at + 1) * block)[:, None]
        before_KK = at[None] < at[:, None]
        # A column sees itself, so a block on the diagonal is never empty; and it is never whole.
        seen_KK = (at[None] == at[:, None]) | (before_KK & (stop_KB.max(1)[None] > first_K1))
        whole_KK = before_KK & (stop_KB.min(1)[None] >= last_K1)
        if window is not None:
            nearest_KK = depth_KB.min(1)[:, None] - depth_KB.max(1)[None]
            farthest_KK = depth_KB.max(1)[:, None] - depth_KB.min(1)[None]
            seen_KK &= nearest_KK < window
            whole_KK &= farthest_KK < window
        return Blocks(seen_KK & ~whole_KK, seen_KK & whole_KK)


def columns(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """((L,) where the descendants of every column's segment end, (L,) depth), as the kernel's whole numbers."""
    sizes = [s.end - s.start for s in tree.segments]
    stop_L = np.repeat(np.array([s.stop for s in tree.segments], np.int32), sizes)
    return stop_L, tree.position_L.astype(np.int32)


@dataclass(frozen=True, eq=False)
class RowMask:
    """The mask of a packed row on its device, made once for all layers (one block mask for every window)."""

    stop_L: Tensor
    depth_L: Tensor
    numbers: tuple[np.ndarray, np.ndarray]
    blocks: dict[int | None, Any]

    @staticmethod
    def of(tree: Tree, device: torch.device) -> RowMask:
        stop_L, depth_L = columns(tree)
        on_device = [torch.from_numpy(x).to(device, non_blocking=True) for x in (stop_L, depth_L)]
        return RowMask(on_device[0], on_device[1], (stop_L, depth_L), {})

    def block_mask(self, window: int | None) -> Any:
        """The ``BlockMask`` that the kernel reads."""
        if window not in self.blocks:
            from torch.nn.attention.flex_attention import BlockMask

            blocks = Blocks.of(*self.numbers, window)
            make: Any = BlockMask.from_kv_blocks
            listed = [x.to(self.stop_L.device) for kind in (blocks.mixed_KK, blocks.whole_KK) for x in _listed(kind)]
            self.blocks[window] = make(*listed, BLOCK_SIZE=BLOCK, mask_mod=self.mask_mod(window))
        return self.blocks[window]

    def mask_mod(self, window: int | None) -> Callable[..., Tensor]:
        stop_L, depth_L = self.stop_L, self.depth_L

        def in_subtree(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q < stop_L[k])

        if window is None:
            return in_subtree
        oldest_L = depth_L - (window - 1)  # per column, so that no number is built into the kernel

        def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (k <= q) & (q < stop_L[k]) & (depth_L[k] >= oldest_L[q])

        return near


def _listed(blocks_KK: np.ndarray) -> tuple[Tensor, Tensor]:
    """((1, 1, K) how many blocks a row of blocks has, (1, 1, K, K) which, those first)."""
    which_KK = np.argsort(~blocks_KK, axis=1, kind="stable").astype(np.int32)
    counts_K = blocks_KK.sum(1).astype(np.int32)
    return torch.from_numpy(counts_K)[None, None], torch.from_numpy(which_KK)[None, None]


# -- the kernel


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    *,
    window: int | None = None,
    cap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """(1, L, H, E) attention of a packed row; queries (1, H, L, E), keys and values (1, G, L, E).

    What the arguments mean is said at ``attention.by_path``, which also answers where this kernel cannot.
    """
    asked: dict[str, Any] = {"window": window, "cap": cap, "sinks_H": sinks_H}
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    shape = Shape(
        query.device,
        query.dtype,
        (query.shape[1], key.shape[1], query.shape[-1], value.shape[-1]),
        (scale, cap, window is not None, sinks_H is not None),
        wants_gradient,
    )
    if query.shape[2] % BLOCK or not works(shape):
        return by_path(query, key, value, layout, scale, **asked)
    return fused(query, key, value, mask_of(layout, query.device), scale, **asked)


def mask_of(layout: Layout, device: torch.device) -> RowMask:
    """The row's mask, made when the first layer asks for it."""
    if device not in layout.memo:
        layout.memo[device] = RowMask.of(layout.tree, device)
    mask: RowMask = layout.memo[device]
    return mask


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: RowMask,
    scale: float,
    *,
    window: int | None = None,
    cap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """``attention`` without a net: L is a multiple of the block and the kernel takes the shape."""
    attend = compiled(query.device.type)
    options: dict[str, Any] = {"block_mask": mask.block_mask(window), "scale": scale, "enable_gqa": True}
    options |= {"score_mod": capped(cap)} if cap is not None else {}
    if sinks_H is None:
        return attend(query, key, value, **options).transpose(1, 2)
    out, lse_1HL = _with_normaliser(attend, query, key, value, options)
    share_1HL = torch.sigmoid(lse_1HL - sinks_H.to(lse_1HL.dtype)[None, :, None])
    return (out * share_1HL[..., None]).to(query.dtype).transpose(1, 2)


@cache
def capped(cap: float) -> Callable[..., Tensor]:
    """Scores become cap tanh(score / cap)."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return score_mod


def _with_normaliser(
    attend: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """What the kernel gives and its (1, H, L) log-normalisers, as torch 2.9 and those before it are asked."""
    from torch.nn.attention import flex_attention as library

    if hasattr(library, "AuxRequest"):
        out, more = attend(query, key, value, return_aux=library.AuxRequest(lse=True), **options)
        return out, more.lse
    out, lse_1HL = attend(query, key, value, return_lse=True, **options)
    return out, lse_1HL


@cache
def compiled(device: str) -> Callable[..., Any]:
    """FlexAttention, compiled where a kernel is to be had for it (on a CPU it is forward only, so not there)."""
    from torch.nn.attention.flex_attention import flex_attention

    config: Any = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, max(getattr(config, name), RECOMPILES))
    # A whole graph or an error: what is left to plain torch would hold L x L scores.
    kernel: Any = flex_attention if device == "cpu" else torch.compile(flex_attention, fullgraph=True)
    # A second model's scale or cap would make them variables of the kernel, which it cannot have.
    fixed = {"specialize_float": True} if hasattr(config, "specialize_float") else {}

    def call(*args: Any, **kwargs: Any) -> Any:
        with config.patch(fixed):
            return kernel(*args, **kwargs)

    return call


# -- whether it works


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for."""

    device: torch.device
    dtype: torch.dtype
    heads: tuple[int, int, int, int]
    """H, G and the head sizes of queries and values."""
    scores: tuple[float, float | None, bool, bool]
    """Scale, cap, whether there are a window and sinks."""
    gradient: bool


TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.float16: 2e-2}
"""How far numbers of this precision may be off, relative to the norm (float32 products may run in TF32)."""


def ready(device: torch.device) -> bool:
    """Whether there is a compiler for this GPU, and one that the kernel is known to do well on."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def works(shape: Shape) -> bool:
    """Whether the kernel gives plain arithmetic's numbers and gradients on a small row of trees. Tried once."""
    try:
        # In a thread of its own: gradient checkpointing around us counts the tensors saved in this one, and what
        # is traced while it counts comes out wrong (torch 2.13, ``score_mod``).
        with ThreadPoolExecutor(1) as pool:
            off = pool.submit(_trial, shape).result()
    except Exception as error:  # a compiler fails in as many ways as there are machines
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    else:
        if off <= TOLERANCE.get(shape.dtype, 4e-2):
            return True
        why = f"it was off by {off:.1e}"
    warnings.warn(
        f"the fused attention kernel cannot be used for heads of {shape.heads[2]} in {shape.dtype} here ({why}): "
        "prefix trees go through plain arithmetic, which is slower and gives the same numbers",
        stacklevel=4,
    )
    return False


def _trial(shape: Shape) -> float:
    """The largest relative error of the output and, where wanted, of the gradients, over two lengths (the second
    makes the compiler take the length as a variable, and that kernel is the one that is used)."""
    return max(
        _error(shape, longest, again) for longest in (130, 390) for again in ([False, True][: 1 + shape.gradient])
    )


def _error(shape: Shape, longest: int, again: bool) -> float:
    """``again``: as under gradient checkpointing, which computes the forward pass a second time."""
    rows = [list(range(90)), [*range(40), *range(100, 170)], list(range(200, 200 + longest))]
    layout = Layout.of(filled(join(grow(rows, worth=1 << 30))))
    length, (heads, groups, size, out_size) = len(layout.tree.ids_L), shape.heads
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(shape.device, shape.dtype)

    scale, cap, slides, sinks = shape.scores
    inputs = [
        random(1, heads, length, size),
        random(1, groups, length, size),
        random(1, groups, length, out_size),
        *([random(heads)] if sinks else []),
    ]
    pull = random(1, length, heads, out_size)
    mask = mask_of(layout, shape.device)

    def attend(kernel: Callable[..., Tensor], row: Any, *leaves: Tensor) -> Tensor:
        asked = {"window": 30 if slides else None, "cap": cap, "sinks_H": leaves[3] if sinks else None}
        return kernel(*leaves[:3], row, scale, **asked)

    def found(kernel: Callable[..., Tensor], row: Any, again: bool) -> list[Tensor]:
        leaves = [x.clone().requires_grad_(shape.gradient) for x in inputs]
        run = partial(attend, kernel, row)
        out = checkpoint(run, *leaves, use_reentrant=False) if again else run(*leaves)
        return [out.detach(), *(torch.autograd.grad(out, leaves, pull) if shape.gradient else ())]

    with torch.set_grad_enabled(shape.gradient):
        pairs = zip(found(fused, mask, again), found(by_path, layout, False), strict=True)
    return max(float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)) for a, b in pairs)
