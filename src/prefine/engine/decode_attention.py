"""Attention of one new token a row, whose past is in pieces: shared prefixes, and what the row itself has said.

Rows that continue the same prefix attend to it together, as one matrix multiply with its keys; every row attends
to its own continuation; the pieces of a row are joined by their log-normalisers,

    l = log sum_i exp l_i,   o = sum_i exp(l_i - l) o_i.

On a CPU a piece is the library's fused kernel, on slices and without a mask. Sliding windows that bite and capped
scores, and every other device, go through plain arithmetic; attention sinks are one more piece without a value.

Shapes: B rows, G key-value heads, R query heads of each, E size of a head, P tokens of a prefix, T room for new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine.attention import IGNORED, NotInTrees, attend

NAME = "prefine_decode"

_PACKET = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FUSED = None if _PACKET is None else _PACKET.default


@dataclass(frozen=True)
class How:
    """What a layer does with its scores."""

    scale: float
    window: int | None = None
    """A token sees itself and the ``window - 1`` before it."""
    cap: float | None = None
    """Scores become cap tanh(score / cap)."""
    sinks_H: Tensor | None = None
    """A score a head that takes part in the softmax and gives nothing."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens that rows ``start``..``stop`` share, with their keys and values, a layer each: (1, G, P, E)."""

    start: int
    stop: int
    level: int
    """Prefixes of one level have no row in common."""
    position_P: np.ndarray
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def kept(self, index_B: np.ndarray) -> Prefix | None:
        """For some of the rows, in order; None if it has none of them."""
        start, stop = (int(x) for x in np.searchsorted(index_B, (self.start, self.stop)))
        return replace(self, start=start, stop=stop) if stop > start else None


class Own:
    """Keys and values of what every row has said, in room that is made once: (B, G, T, E) a layer."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def write(self, layer: int, t: int, key_BGE: Tensor, value_BGE: Tensor) -> None:
        if layer == len(self.keys):
            for store, x in ((self.keys, key_BGE), (self.values, value_BGE)):
                store.append(x.new_empty(x.shape[0], x.shape[1], self.room, x.shape[2]))
        self.keys[layer][:, :, t] = key_BGE
        self.values[layer][:, :, t] = value_BGE

    def keep(self, index_B: Tensor, used: int) -> None:
        """Only these rows; of the room only what is used is copied."""
        for store in (self.keys, self.values):
            for i, x in enumerate(store):
                store[i] = x.new_empty(len(index_B), *x.shape[1:])
                store[i][:, :, :used] = x[:, :, :used][index_B]


def step(
    query: Tensor,
    layer: int,
    t: int,
    own: Own,
    runs: Sequence[Sequence[Prefix]],
    position_B: np.ndarray,
    how: How,
) -> Tensor:
    """(1, B, H, E): queries (1, H, B, E) of the t-th own tokens, whose keys are written already.

    ``runs`` are prefixes that cover consecutive rows, so that a run is joined to the rest in one go.
    """
    groups = own.keys[layer].shape[1]
    # (B, R, G, E) is what the fused kernel writes, whichever piece it is.
    q_BRGE = query[0].transpose(0, 1).unflatten(1, (groups, -1)).transpose(1, 2).contiguous()
    repeats = q_BRGE.shape[1]
    first = 0 if how.window is None else max(0, t + 1 - how.window)
    plain = replace(how, window=None)
    out, lse = piece(
        q_BRGE.transpose(1, 2), own.keys[layer][:, :, first : t + 1], own.values[layer][:, :, first : t + 1], plain
    )
    out_XGE, lse_XG = out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)
    q_XGE = q_BRGE.flatten(0, 1)  # X = B R
    for run in runs:
        a, b = run[0].start * repeats, run[-1].stop * repeats
        sizes = [(prefix.stop - prefix.start) * repeats for prefix in run]
        queries = q_XGE[a:b].transpose(0, 1)[None].split(sizes, 2)
        if how.window is None:
            parts = [
                piece(q, prefix.keys[layer], prefix.values[layer], plain)
                for q, prefix in zip(queries, run, strict=True)
            ]
        else:
            parts = [
                _seen_piece(q, prefix, layer, position_B, how, repeats) for q, prefix in zip(queries, run, strict=True)
            ]
        more_XGE = torch.cat([out for out, _ in parts], 2)[0].transpose(0, 1)
        more_XG = torch.cat([lse for _, lse in parts], 2)[0].transpose(0, 1)
        out_XGE[a:b].lerp_(more_XGE, torch.sigmoid(more_XG - lse_XG[a:b])[..., None].to(more_XGE.dtype))
        lse_XG[a:b] = torch.logaddexp(lse_XG[a:b], more_XG)
    out = out_XGE.unflatten(0, (-1, repeats))
    if how.sinks_H is not None:
        sinks_RG = how.sinks_H.unflatten(0, (groups, repeats)).t().to(lse_XG.dtype)
        out = out * torch.sigmoid(lse_XG.unflatten(0, (-1, repeats)) - sinks_RG)[..., None].to(out.dtype)
    return out.transpose(1, 2).flatten(1, 2)[None].to(query.dtype)


def piece(q: Tensor, k: Tensor, v: Tensor, how: How, unseen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """((b, G, Q, E) attention of (b, G, Q, E) queries over (b, G, P, E) keys, (b, G, Q) log-normalisers), in
    float32 or better. ``unseen`` (Q, P) are left out."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if how.cap is None and unseen is None and q.is_cpu and _FUSED is not None:
        out, lse = _FUSED(q, k, v, 0.0, False, scale=how.scale)
        return out if out.dtype == wide else out.to(wide), lse
    scores = (q @ k.transpose(-1, -2)).to(wide) * how.scale
    scores = scores if how.cap is None else torch.tanh(scores / how.cap) * how.cap
    scores = scores if unseen is None else scores.masked_fill(unseen, torch.finfo(wide).min)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp().to(v.dtype) @ v).to(wide), lse


def _seen_piece(
    q: Tensor, prefix: Prefix, layer: int, position_B: np.ndarray, how: How, repeats: int
) -> tuple[Tensor, Tensor]:
    """``piece`` of what is left of a prefix in a sliding window."""
    at_B = position_B[prefix.start : prefix.stop]
    key, value, plain = prefix.keys[layer], prefix.values[layer], replace(how, window=None)
    assert how.window is not None
    if at_B.max() - prefix.position_P[0] < how.window:
        return piece(q, key, value, plain)
    # At least one key stays, unseen by all: its weight is then exactly zero.
    first = min(int(np.searchsorted(prefix.position_P, at_B.min() - how.window + 1)), len(prefix.position_P) - 1)
    unseen_BP = at_B[:, None] - prefix.position_P[None, first:] >= how.window
    unseen_XP = torch.from_numpy(np.repeat(unseen_BP, repeats, 0)).to(q.device)
    return piece(q, key[:, :, first:], value[:, :, first:], plain, unseen_XP)


# -- in transformers

Attend = Callable[[nn.Module, Tensor, Tensor, Tensor, How], Tensor]
"""(module, queries (1, H, L, E), keys, values (1, G, L, E), how) -> (1, L, H, E)."""

_ATTEND: ContextVar[Attend | None] = ContextVar("attend", default=None)


def _interface(
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
    """The attention function that transformers calls. Where nothing is decoded (another thread) the library's."""
    ours = _ATTEND.get()
    if ours is None:
        return attend(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window, softcap, s_aux, **others
        )
    strange = sorted(name for name, x in others.items() if x is not None and name not in IGNORED)
    if strange or others.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise NotInTrees(f"its attention is given {', '.join(strange) or 'no causal mask'}")
    if attention_mask is not None or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise NotInTrees("it makes attention masks or keys of its own")
    if dropout > 0:
        raise NotInTrees("it drops attention out")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = How(scale, sliding_window, softcap, s_aux)
    return ours(module, query.to(value.dtype), key.to(value.dtype), value, how), None


def _mask(**kwargs: Any) -> Any:
    if _ATTEND.get() is not None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(**kwargs)


def register() -> None:
    """Tell transformers about our attention. Again is harmless."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _interface)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)


def configurations(module: nn.Module) -> list[Any]:
    """The configurations in which the module's layers look up their attention."""
    found = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if "_attn_implementation_internal" in getattr(c, "__dict__", {})]


@contextmanager
def attending(configs: Sequence[Any], ours: Attend) -> Iterator[None]:
    """Inside, the layers that look there attend by this function."""
    held = [c._attn_implementation_internal for c in configs]
    token = _ATTEND.set(ours)
    for c in configs:
        c._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for c, name in zip(configs, held, strict=True):
            c._attn_implementation_internal = name
        _ATTEND.reset(token)
