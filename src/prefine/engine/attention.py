"""How a packed tree goes through a transformers model: its attention, exact and without a mask.

transformers lets a model's attention be replaced by name. ``in_tree`` switches a model to ours for one forward
pass and tells it the tree; everything else of the model stays as it is. Layers that gradient checkpointing
computes again during the backward pass find the same tree there.

On a CPU attention is split where the tree is (``TreeAttention``): every segment attends to itself causally, and
all its descendants, which follow it directly, attend to it whole. Each piece is the library's fused kernel on
slices, without copies, without a mask; the pieces of a token are joined by their log-normalisers,

    l = log sum_i exp l_i,   o = sum_i exp(l_i - l) o_i,

and the backward pass of each piece with the joint o and l gives that piece's exact part of the gradient. What the
kernel does not know (sliding windows that bite, capped scores, attention sinks) goes segment by segment through
plain arithmetic (``by_path``).

Shapes: L columns, H heads, G key-value heads, R = H / G, E size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefine.engine import narrow
from prefine.engine.tree import Tree

NAME = "prefine_tree"

BLOCK = 128
"""A causal piece longer than this is halved: the CPU kernel computes what the causal mask hides within a block."""

Piece = tuple[int, int, int, int]
"""Queries from..to, keys from..to."""


class NotInTrees(ValueError):
    """This model does something in its attention that a tree cannot honour."""


@dataclass(frozen=True)
class Layout:
    """What attention needs to know about a packed row."""

    tree: Tree
    causal: tuple[Piece, ...]
    whole: tuple[Piece, ...]
    depth: int
    """The longest path, in tokens."""
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a kernel makes of the tree once for all layers."""

    @staticmethod
    def of(tree: Tree) -> Layout:
        causal: list[Piece] = []
        whole: list[Piece] = []
        for s in tree.segments:
            _halve(s.start, s.end, causal, whole)
            if s.stop > s.end:
                whole.append((s.end, s.stop, s.start, s.end))
        return Layout(tree, tuple(causal), tuple(whole), max(s.depth + s.end - s.start for s in tree.segments))


def _halve(start: int, end: int, causal: list[Piece], whole: list[Piece]) -> None:
    """A causal block as smaller causal blocks and whole ones."""
    if end - start <= BLOCK:
        causal.append((start, end, start, end))
        return
    middle = (start + end + 1) // 2
    _halve(start, middle, causal, whole)
    whole.append((middle, end, start, middle))
    _halve(middle, end, causal, whole)


# -- the fused kernel on pieces

_FORWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


class TreeAttention(torch.autograd.Function):
    """(1, L, H, E) attention of a packed row; queries (1, H, L, E), keys and values (1, G, L, E)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        out, lse = _pieces(query, key, value, layout, scale)
        ctx.layout, ctx.scale = layout, scale
        ctx.save_for_backward(query, key, value, out, lse)
        return _from_heads(out, query.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        assert _BACKWARD is not None
        repeats = query.shape[1] // key.shape[1]
        q, k, v = _as_heads(query, key, value)
        g = grad[0].unflatten(1, (-1, repeats)).permute(2, 1, 0, 3)
        narrow = out.to(query.dtype)
        dq, dk, dv = _empty_like_heads(q), torch.empty_like(key[0]), torch.empty_like(value[0])
        for pieces, is_causal in ((ctx.layout.causal, True), (ctx.layout.whole, False)):
            for a, b, c, d in pieces:
                dq_, dk_, dv_ = _BACKWARD(
                    g[:, :, a:b],
                    q[:, :, a:b],
                    k[:, :, c:d],
                    v[:, :, c:d],
                    narrow[:, :, a:b],
                    lse[:, :, a:b],
                    0.0,
                    is_causal,
                    scale=ctx.scale,
                )
                dk_, dv_ = (dk_[0], dv_[0]) if repeats == 1 else (dk_.sum(0), dv_.sum(0))
                if is_causal:  # the causal pieces cover every column once
                    dq[:, :, a:b], dk[:, c:d], dv[:, c:d] = dq_, dk_, dv_
                else:
                    dq[:, :, a:b] += dq_
                    dk[:, c:d] += dk_
                    dv[:, c:d] += dv_
        return _from_heads(dq, query.dtype).transpose(1, 2), dk[None], dv[None], None, None


def _pieces(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> tuple[Tensor, Tensor]:
    """((R, G, L, E) outputs, (R, G, L) log-normalisers), the pieces joined in float32 or better."""
    assert _FORWARD is not None
    q, k, v = _as_heads(query, key, value)
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    out, lse = _empty_like_heads(q, wide), torch.empty(q.shape[:3], dtype=wide)
    for a, b, c, d in layout.causal:
        out[:, :, a:b], lse[:, :, a:b] = _FORWARD(q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], 0.0, True, scale=scale)
    for a, b, c, d in layout.whole:
        more, more_lse = _FORWARD(q[:, :, a:b], k[:, :, c:d], v[:, :, c:d], 0.0, False, scale=scale)
        share = torch.sigmoid(more_lse - lse[:, :, a:b])
        out[:, :, a:b].lerp_(more.to(wide), share[..., None])
        lse[:, :, a:b] = torch.logaddexp(lse[:, :, a:b], more_lse)
    return out, lse


def _as_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries as (R, G, L, E), keys and values repeated R times without a copy."""
    repeats = query.shape[1] // key.shape[1]
    q = query[0].unflatten(0, (-1, repeats)).transpose(0, 1)
    return q, key.expand(repeats, -1, -1, -1), value.expand(repeats, -1, -1, -1)


def _empty_like_heads(q: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """(R, G, L, E) that lies in memory as (L, G, R, E): what the layers around attention want."""
    repeats, groups, length, size = q.shape
    return torch.empty(length, groups, repeats, size, dtype=dtype or q.dtype).permute(2, 1, 0, 3)


def _from_heads(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, G, L, E) as (1, L, H, E)."""
    return x.permute(2, 1, 0, 3).flatten(1, 2)[None].to(dtype)


# -- anything else, in plain arithmetic


def by_path(
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
    """(1, L, H, E): every segment's queries against the keys of its own path, on any device.

    ``window``: a token sees itself and the ``window - 1`` before it. ``cap``: scores become cap tanh(score / cap).
    ``sinks_H``: a score a head that takes part in the softmax and gives nothing.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, 1) if repeats > 1 else x for x in (key, value))
    outputs: list[Tensor] = []
    for i, segment in enumerate(layout.tree.segments):
        columns = np.concatenate([np.arange(p.start, p.end) for p in map(_at(layout), layout.tree.path(i))])
        q_at, k_at = np.arange(segment.depth, len(columns)), np.arange(len(columns))
        if window is not None:  # what no query sees any more
            first = max(segment.depth - window + 1, 0)
            columns, k_at = columns[first:], k_at[first:]
        away = q_at[:, None] - k_at[None]
        seen = torch.from_numpy((away >= 0) & (away < window) if window is not None else away >= 0).to(query.device)
        at = torch.from_numpy(columns).to(query.device)
        q = query[:, :, segment.start : segment.end]
        k, v = key.index_select(2, at), value.index_select(2, at)
        if cap is None and sinks_H is None:
            outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale))
            continue
        scores = q @ k.transpose(-1, -2) * scale
        scores = scores if cap is None else torch.tanh(scores / cap) * cap
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        if sinks_H is not None:
            sinks = sinks_H.reshape(1, -1, 1, 1).expand(1, -1, q.shape[2], 1).to(scores.dtype)
            scores = torch.cat([scores, sinks], -1)
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        p = scores.softmax(-1, dtype=wide).to(v.dtype)
        outputs.append(p[..., : len(columns)] @ v)
    return torch.cat(outputs, 2).transpose(1, 2)


def _at(layout: Layout) -> Callable[[int], Any]:
    return lambda i: layout.tree.segments[i]


# -- which kernel goes where


def in_pieces(
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
    """``TreeAttention`` where its fused kernel knows all that is asked, else ``by_path``."""
    plain = window is None and cap is None and sinks_H is None
    if plain and _FORWARD is not None and query.shape[-1] == value.shape[-1]:
        return TreeAttention.apply(query, key, value, layout, scale)
    return by_path(query, key, value, layout, scale, window=window, cap=cap, sinks_H=sinks_H)


def _in_blocks(*args: Any, **kwargs: Any) -> Tensor:
    """The kernel of ``engine.flex``, which stands on this file."""
    from prefine.engine import flex

    return flex.attention(*args, **kwargs)


KERNELS: Mapping[str, Callable[..., Tensor]] = {"cpu": in_pieces, "cuda": _in_blocks}
"""Tree attention by the kind of device; elsewhere it is ``by_path``."""


# -- in transformers

_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)
_CALLS: ContextVar[list[int | None] | None] = ContextVar("calls", default=None)

IGNORED = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_causal"}
    | {"layer_idx", "cache_position", "past_key_values", "logits_to_keep", "position_embeddings"}
)
"""Keywords of models that change nothing about attention without a cache."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls. Outside a tree (another thread) it is the library's."""
    layout = _LAYOUT.get()
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        kwargs = {"dropout": dropout, "scaling": scaling, "softcap": softcap, **others}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    strange = sorted(name for name, x in others.items() if x is not None and name not in IGNORED)
    if strange or others.get("is_causal") is False:
        raise NotInTrees(f"its attention is given {', '.join(strange) or 'no causal mask'}")
    if (
        attention_mask is not None
        or query.shape[0] != 1
        or not query.shape[2] == key.shape[2] == len(layout.tree.ids_L)
    ):
        raise NotInTrees("it makes attention masks or keys of its own")
    if dropout > 0:
        raise NotInTrees("it drops attention out")
    if not getattr(module, "is_causal", True):
        raise NotInTrees("its attention is not causal")
    calls = _CALLS.get()
    if calls is not None:
        calls.append(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window if sliding_window is not None and layout.depth > sliding_window else None
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    operands = (query.to(dtype), key.to(dtype), value.to(dtype))
    kernel = KERNELS.get(kind, by_path)
    out = kernel(*operands, layout, scale, window=window, cap=softcap, sinks_H=s_aux)
    narrow.attended()
    return out, None


def _mask(**kwargs: Any) -> Any:
    """No mask in a tree; outside one (another thread) the library's."""
    if _LAYOUT.get() is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(**kwargs)


def register() -> None:
    """Tell transformers about our attention. Again is harmless."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)


@contextmanager
def in_tree(module: nn.Module, layout: Layout, calls: list[int | None] | None = None) -> Iterator[None]:
    """Inside, the module's attention is that of the tree. ``calls`` is told of every attention layer."""
    register()
    configs = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
    before = {i: vars(c)["_attn_implementation_internal"] for i, c in configs.items() if _has_choice(c)}
    again: list[Any] = [m for m in module.modules() if getattr(m, "gradient_checkpointing", False)]
    again = [m for m in again if "_gradient_checkpointing_func" in vars(m)]
    saved = [vars(m)["_gradient_checkpointing_func"] for m in again]

    @contextmanager
    def switched() -> Iterator[None]:
        held = {i: vars(configs[i])["_attn_implementation_internal"] for i in before}
        token, told = _LAYOUT.set(layout), _CALLS.set(calls)
        for i in before:
            configs[i]._attn_implementation_internal = NAME
        try:
            yield
        finally:
            for i, name in held.items():
                configs[i]._attn_implementation_internal = name
            _LAYOUT.reset(token)
            _CALLS.reset(told)

    def inside(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with switched():
            return layer(*args, **kwargs)

    for m, checkpoint in zip(again, saved, strict=True):
        # What is computed again in the backward pass is computed in the tree again.
        m._gradient_checkpointing_func = _wrapped(checkpoint, inside)
    try:
        with switched():
            yield
    finally:
        for m, checkpoint in zip(again, saved, strict=True):
            m._gradient_checkpointing_func = checkpoint


def _wrapped(checkpoint: Callable[..., Any], inside: Callable[..., Any]) -> Callable[..., Any]:
    return lambda layer, *args, **kwargs: checkpoint(partial(inside, layer), *args, **kwargs)


def _has_choice(config: Any) -> bool:
    return "_attn_implementation_internal" in getattr(config, "__dict__", {})


# -- which models can

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def why_not(model: nn.Module, taken: frozenset[str]) -> str | None:
    """Why a model cannot go in trees, as far as its form tells; None if nothing speaks against trying.

    ``taken`` are the arguments its backbone's forward pass knows.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        return "it is not a transformers model"
    text = config.get_text_config()
    if "position_ids" not in taken:
        return "it takes no positions"
    if getattr(model, "_is_stateful", False) or any(isinstance(m, nn.Conv1d | nn.RNNBase) for m in model.modules()):
        return "it carries state outside attention"
    unknown = set(getattr(text, "layer_types", None) or ()) - KNOWN_LAYERS
    if unknown:
        return f"it has layers of kind {', '.join(sorted(unknown))}"
    return None


def windows(config: Any) -> int | None:
    """The sliding window that a configuration speaks of, if it is in use."""
    text: Mapping[str, Any] = vars(config.get_text_config())
    return text.get("sliding_window") if text.get("use_sliding_window", True) else None
