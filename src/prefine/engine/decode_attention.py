"""Attention of one new token a row, whose past is in blocks: shared prefixes, and what the row itself has said.

Rows that continue the same prefix attend to it together, as one matrix multiply with its keys; prefixes of like
length stand side by side in one block, shorter ones filled up in front. What a row says grows at the end of a
block, behind the prefix that only this row continues. The blocks of a row are joined by their log-normalisers,

    l = log sum_i exp l_i,   o = sum_i exp(l_i - l) o_i,

and attention sinks are one more block without a value.

Shapes: B rows, G key-value heads, R query heads of each, E size of a head; a block has b sequences of C columns,
each of them seen by n rows, so X = b n rows and Q = n R queries a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine.trees.attention import announce, attend, attention_named, expect_one_row

NAME = "prefine_decode"

NOWHERE = -(1 << 40)
"""The position of what fills up: before everything that is ever seen."""

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


@dataclass(eq=False)
class Block:
    """Sequences side by side with their keys and values, (b, G, C, E) a layer, of which ``used`` columns are there."""

    row_bn: np.ndarray
    """The rows that see each sequence, in order; where they are fewer than n, the last is named again."""
    position_bC: np.ndarray
    """``NOWHERE`` where nothing is meant."""
    used: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @cached_property
    def at(self) -> slice | Tensor:
        """Its X rows."""
        row_X = self.row_bn.reshape(-1)
        if (np.diff(row_X) == 1).all():
            return slice(int(row_X[0]), int(row_X[-1]) + 1)
        return torch.from_numpy(row_X).to(self.keys[0].device)

    @cached_property
    def is_whole(self) -> bool:
        return bool((self.position_bC != NOWHERE).all())

    def fill(self, key_GLE: Tensor, value_GLE: Tensor, column_bP: Tensor) -> None:
        """One more layer, whose first columns are some of the L that were read."""
        for store, x in ((self.keys, key_GLE), (self.values, value_GLE)):
            made = x.new_empty(len(column_bP), len(x), self.position_bC.shape[1], x.shape[2])
            read = x.index_select(1, column_bP.flatten()).unflatten(1, column_bP.shape)
            made[:, :, : column_bP.shape[1]] = read.transpose(0, 1)
            store.append(made)

    def write(self, layer: int, key_BGE: Tensor, value_BGE: Tensor) -> None:
        """What the rows say, in the last used column."""
        self.keys[layer][:, :, self.used - 1] = key_BGE[self.at]
        self.values[layer][:, :, self.used - 1] = value_BGE[self.at]

    def kept(self, place_B: np.ndarray) -> Block | None:
        """For the rows that stay, at their new places (-1: gone); None if they are none of its own."""
        rows = [np.unique(row_n[row_n >= 0]) for row_n in place_B[self.row_bn]]
        alive = [i for i, row_n in enumerate(rows) if len(row_n)]
        if not alive:
            return None
        most = max(map(len, rows))
        row_bn = np.stack([np.pad(rows[i], (0, most - len(rows[i])), mode="edge") for i in alive])

        def taken(x: Tensor) -> Tensor:
            if len(alive) == len(x):
                return x
            made = x.new_empty(len(alive), *x.shape[1:])
            made[:, :, : self.used] = x[alive, :, : self.used]
            return made

        keys, values = [taken(x) for x in self.keys], [taken(x) for x in self.values]
        return Block(row_bn, self.position_bC[alive], self.used, keys, values)

    def sight(self, position_B: np.ndarray, window: int | None, like: Tensor) -> tuple[int, Tensor | None]:
        """How many columns no row sees any more, and what is added to the scores of the others: (b, n or 1, 1, .)."""
        if window is None and self.is_whole:
            return 0, None
        row_bn = self.row_bn if window is not None else self.row_bn[:, :1]
        away_bnC = position_B[row_bn][:, :, None] - self.position_bC[:, None, : self.used]
        unseen_bnC = away_bnC >= (-NOWHERE >> 1 if window is None else window)
        # At least one column stays. Where none is seen its weight in the joint is exactly zero.
        first = min(int((~unseen_bnC).any((0, 1)).argmax()), self.used - 1)
        if not unseen_bnC[:, :, first:].any():
            return first, None
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        unseen = torch.from_numpy(unseen_bnC[:, :, None, first:]).to(like.device)
        return first, torch.zeros(unseen.shape, dtype=wide, device=like.device).masked_fill_(
            unseen, torch.finfo(wide).min
        )


class Past:
    """What rows have read and said.

    Each row is in one of ``own``, the blocks that grow, and in at most one of every level of ``shared``.
    """

    def __init__(self, own: list[Block], shared: list[list[Block]]) -> None:
        self.own, self.shared = own, shared
        self.sights: dict[tuple[int, int | None], tuple[int, Tensor | None]] = {}
        self.position_B = np.zeros(0, dtype=np.int64)

    @property
    def blocks(self) -> list[Block]:
        return [*self.own, *(block for level in self.shared for block in level)]

    def keep(self, index_B: np.ndarray, rows: int) -> None:
        """Only these of so many rows, in order."""
        place_B = np.full(rows, -1)
        place_B[index_B] = np.arange(len(index_B))
        kept = lambda blocks: [k for block in blocks if (k := block.kept(place_B)) is not None]  # noqa: E731
        self.own = kept(self.own)
        self.shared = [level for blocks in self.shared if (level := kept(blocks))]

    def extend(self, position_B: np.ndarray) -> None:
        """Every row says one more token, at these positions."""
        self.position_B, self.sights = position_B, {}
        for block in self.own:
            block.used += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """(1, B, H, E) attention of queries (1, H, B, E) to the past and to keys and values (1, G, B, E), the next."""
        key_BGE, value_BGE = key[0].transpose(0, 1), value[0].transpose(0, 1)
        for block in self.own:
            block.write(layer, key_BGE, value_BGE)
        q_BGRE = query[0].transpose(0, 1).unflatten(1, (key.shape[1], -1))
        out_BGRE, lse_BGR = self._level(
            self.own, layer, q_BGRE, how, joined=bool(self.shared) or how.sinks_H is not None
        )
        for blocks in self.shared:
            more_BGRE, more_BGR = self._level(blocks, layer, q_BGRE, how, joined=True)
            out_BGRE = out_BGRE.lerp(more_BGRE, torch.sigmoid(more_BGR - lse_BGR)[..., None])
            lse_BGR = torch.logaddexp(lse_BGR, more_BGR)
        if how.sinks_H is not None:
            sinks_GR = how.sinks_H.view(q_BGRE.shape[1:3]).to(lse_BGR.dtype)
            out_BGRE = out_BGRE * torch.sigmoid(lse_BGR - sinks_GR)[..., None]
        return out_BGRE.flatten(1, 2)[None].to(query.dtype)

    def _level(
        self, blocks: Sequence[Block], layer: int, q_BGRE: Tensor, how: How, *, joined: bool
    ) -> tuple[Tensor, Tensor]:
        """Of rows in blocks that have none in common: (B, G, R, E), and (B, G, R), -inf without a block."""
        parts = [self._block(block, layer, q_BGRE, how, joined) for block in blocks]
        if len(parts) == 1 and isinstance(blocks[0].at, slice) and len(parts[0][0]) == len(q_BGRE):
            return parts[0]
        wide = parts[0][0].dtype
        out_BGRE = q_BGRE.new_zeros((*q_BGRE.shape[:3], parts[0][0].shape[-1]), dtype=wide)
        lse_BGR = q_BGRE.new_full(q_BGRE.shape[:3], -torch.inf, dtype=wide)
        for block, (out_XGRE, lse_XGR) in zip(blocks, parts, strict=True):
            out_BGRE[block.at] = out_XGRE
            if joined:
                lse_BGR[block.at] = lse_XGR
        return out_BGRE, lse_BGR

    def _block(self, block: Block, layer: int, q_BGRE: Tensor, how: How, joined: bool) -> tuple[Tensor, Tensor]:
        """((X, G, R, E), (X, G, R)) of its rows."""
        (b, n), (groups, repeats) = block.row_bn.shape, q_BGRE.shape[1:3]
        seen = (id(block), how.window)
        if seen not in self.sights:
            self.sights[seen] = block.sight(self.position_B, how.window, q_BGRE)
        first, unseen_bn1C = self.sights[seen]
        unseen = None
        if unseen_bn1C is not None:
            unseen = unseen_bn1C if unseen_bn1C.shape[1] == 1 else unseen_bn1C.repeat_interleave(repeats, 1)
            unseen = unseen.transpose(1, 2)
        # (b, G, n R, E), of a tensor that lies in memory as (b, n, R, G, E): so does what comes back.
        q_XRGE = q_BGRE[block.at].transpose(1, 2)
        q = q_XRGE.reshape(b, n * repeats, groups, -1).transpose(1, 2)
        k, v = (x[layer][:, :, first : block.used] for x in (block.keys, block.values))
        out, lse = piece(q, k, v, how, unseen, joined)
        return (
            out.transpose(1, 2).reshape(b * n, repeats, groups, -1).transpose(1, 2),
            lse.transpose(1, 2).reshape(b * n, repeats, groups).transpose(1, 2),
        )


def piece(q: Tensor, k: Tensor, v: Tensor, how: How, unseen: Tensor | None, joined: bool) -> tuple[Tensor, Tensor]:
    """((b, G, Q, E) attention of (b, G, Q, E) queries over (b, G, C, E) keys, (b, G, Q) log-normalisers), in
    float32 or better. ``unseen`` (b, 1, Q or 1, C) is added to the scores."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    if how.cap is None and q.is_cpu and _FUSED is not None:
        out, lse = _FUSED(q, k, v, 0.0, False, attn_mask=unseen, scale=how.scale)
        return out if out.dtype == wide else out.to(wide), lse
    scores = (q @ k.transpose(-1, -2)).to(wide) * how.scale
    scores = scores if how.cap is None else torch.tanh(scores / how.cap) * how.cap
    scores = scores if unseen is None else scores.add_(unseen)
    if not joined:
        return (scores.softmax(-1).to(v.dtype) @ v).to(wide), scores[..., 0]
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)
    return (weights.div_(total).to(v.dtype) @ v).to(wide), (top + total.log())[..., 0]


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
    expect_one_row(module, query, key, attention_mask, dropout, others, length=query.shape[2])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = How(scale, sliding_window, softcap, s_aux)
    return ours(module, query.to(value.dtype), key.to(value.dtype), value, how), None


def register() -> None:
    """Tell transformers about our attention. Again is harmless."""
    announce(NAME, _interface, _ATTEND)


@contextmanager
def attending(configs: Sequence[Any], ours: Attend) -> Iterator[None]:
    """Inside, the layers that look there attend by this function."""
    token = _ATTEND.set(ours)
    try:
        with attention_named(NAME, configs):
            yield
    finally:
        _ATTEND.reset(token)
