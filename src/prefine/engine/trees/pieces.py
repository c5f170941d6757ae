"""Tree attention on a CPU: exact, without a mask, in pieces that the fused kernel takes.

Attention is split where the tree is: a segment attends to itself causally, and all its descendants, which follow it
directly, attend to it whole. Each piece is the library's fused kernel on slices, without copies; the pieces of a
token are joined by their log-normalisers,

    l = log sum_i exp l_i,   o = sum_i exp(l_i - l) o_i,

and the backward pass of each piece with the joint o and l gives that piece's exact part of the gradient.

What the kernel does not know (sliding windows that bite, capped scores, attention sinks) goes segment by segment
through plain arithmetic (``by_path``).

Shapes: L columns, H heads, G key-value heads, R = H / G, E size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from prefine.engine.trees.layout import Layout

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
