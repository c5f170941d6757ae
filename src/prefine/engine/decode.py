"""Decoding from prefix trees: what prompts have in common is computed and kept once, for all their continuations.

Prompts are read as packed trees (``engine.trees``), without padding. Their keys and values stay in pieces: what only
one prompt has, and what several share, each kept once however many rows continue it. A step gives every row one
token, as one packed row through the model's own modules with attention of ours (``engine.decode_attention``).

``TreeDecoder`` has the face of ``sample.Decoder``, the plain way, which remains for models that cannot do this
(``refusal``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine import score
from prefine.engine.allocator import keep_freed_memory
from prefine.engine.decode_attention import NOWHERE, Block, How, Past, attending, register
from prefine.engine.trees import narrow, route
from prefine.engine.trees.attention import NotInTrees, attend, configurations, in_tree
from prefine.engine.trees.layout import Layout
from prefine.engine.trees.tree import Tree, grow, pack

PREFILL_TOKENS = 8192
"""Most columns of a packed row of prompts, where trees can be divided."""

SPLIT_SAVES = 128
"""Prompts share the keys of a prefix if that saves at least so many tokens of reading a step: a piece of attention
has its own cost."""

FILLED = 128
"""Prefixes stand in one block if shorter ones are filled up with at most so many tokens in all: the same cost."""

LOGITS_AT_ONCE = 1 << 21
"""Most numbers of logits that are made at once: they are drawn from while they are near."""


class TreeDecoder:
    """What comes next for rows that continue prompts.

    ``row_B`` says which prompt each row continues, in the order of the prompts, which are different and sorted
    (so that prompts that begin alike are neighbours). ``room``: most tokens that a row will be given.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[tuple[int, ...]], row_B: Sequence[int], room: int) -> None:
        if any(a >= b for a, b in pairwise(prompts)) or any(a > b for a, b in pairwise(row_B)):
            raise ValueError("prompts must be different and sorted, and rows in the order of their prompts")
        register()
        keep_freed_memory()
        self.model = model
        self.inner: Any = score.backbone(model)
        head = score.output_head(model)
        assert head is not None, "a model without one is refused"
        self.head = head
        self.device = next(model.parameters()).device
        self.configs = configurations(self.inner)
        self.taken = score.accepted(self.inner)
        self.position_B = np.asarray([len(prompts[i]) for i in row_B], dtype=np.int64)
        self.keys: list[list[Tensor]] = []
        self.values: list[list[Tensor]] = []
        bounds = np.searchsorted(np.asarray(row_B), np.arange(len(prompts) + 1))
        prefixes, last_PD = self._read(prompts, bounds)
        self.hidden_BD = last_PD[torch.as_tensor(row_B, device=self.device)]
        self.past = self._remembered(prefixes, room)

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """((rows, (rows, V) logits of what follows them), a few rows at a time)."""
        size = max(1, LOGITS_AT_ONCE // max(1, self._vocabulary()))
        for start in range(0, len(self.hidden_BD), size):
            rows = slice(start, min(start + size, len(self.hidden_BD)))
            yield rows, self.head(self.hidden_BD[rows])

    def keep(self, index_B: Tensor) -> None:
        """Only these rows, in order."""
        at_B = index_B.cpu().numpy()
        self.past.keep(at_B, len(self.position_B))
        self.position_B = self.position_B[at_B]
        self.hidden_BD = self.hidden_BD[index_B]

    def step(self, token_B: Tensor) -> None:
        """Append one token to every row."""
        layer = -1

        def ours(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
            nonlocal layer
            layer += 1
            return self.past.attend(layer, query, key, value, how)

        self.past.extend(self.position_B)
        with attending(self.configs, ours):
            self.hidden_BD = self._forward(token_B, torch.from_numpy(self.position_B).to(self.device))
        self.position_B = self.position_B + 1

    def _forward(self, ids_L: Tensor, position_L: Tensor) -> Tensor:
        """(L, D) hidden states of tokens side by side."""
        inputs = {
            # All of it is real. (Without a mask some models look for padding, or for packing, by themselves.)
            "attention_mask": torch.ones_like(ids_L)[None],
            "position_ids": position_L[None],
            "use_cache": False,
        }
        return self.inner(ids_L[None], **{k: x for k, x in inputs.items() if k in self.taken}).last_hidden_state[0]

    def _read(self, prompts: Sequence[tuple[int, ...]], bounds: np.ndarray) -> tuple[list[Prefix], Tensor]:
        """What the prompts are made of, and the (prompts, D) hidden states at their ends.
        Keys and values stay in ``keys`` and ``values``, one tensor a layer and packed row."""
        last: dict[int, Tensor] = {}
        prefixes: list[Prefix] = []
        before = 0
        for tree in pack(grow(prompts), PREFILL_TOKENS):
            layout = route.layout_of(tree, self.device)
            hidden_ND = self._read_row(layout, [int(column[-1]) for column in tree.columns.values()])
            last |= dict(zip(tree.columns, hidden_ND, strict=True))
            for members, level, column_P in _shared(tree):
                rows = int(bounds[members[0]]), int(bounds[members[-1] + 1])
                prefixes.append(Prefix(*rows, level, column_P + before, tree.position_L[column_P]))
            before += len(layout.tree.ids_L)  # which some devices want filled up
        return prefixes, torch.stack([last[n] for n in range(len(prompts))])

    def _read_row(self, layout: Layout, column_N: Sequence[int]) -> Tensor:
        """(N, D) hidden states of some columns; the last layer computes no others (``engine.trees.narrow``)."""
        layer = 0

        def ours(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
            nonlocal layer
            for store, x in ((self.keys, key), (self.values, value)):
                store.extend([[]] if layer == len(store) else [])
                store[layer].append(x[0])
            layer += 1
            return attend(
                module, query, key, value, None,
                scaling=how.scale, sliding_window=how.window, softcap=how.cap, s_aux=how.sinks_H,
            )[0]  # fmt: skip

        column_W, which_N = (torch.from_numpy(x).to(self.device) for x in np.unique(column_N, return_inverse=True))
        with ExitStack() as inside:
            inside.enter_context(in_tree(self.inner, layout))
            inside.enter_context(attending(self.configs, ours))
            last = self._last_layer() if len(column_W) <= narrow.WORTH * len(layout.tree.ids_L) else None
            reading = None if last is None else inside.enter_context(narrow.only(last, column_W))
            ids_L, position_L = (
                torch.from_numpy(x).to(self.device) for x in (layout.tree.ids_L, layout.tree.position_L)
            )
            hidden_D = self._forward(ids_L, position_L)
        if reading is None:
            hidden_D = hidden_D[column_W]
        elif not reading.done or len(hidden_D) != len(column_W):
            raise NotInTrees("its last layer cannot be narrowed")
        return hidden_D[which_N]

    def _last_layer(self) -> nn.Module | None:
        layers = getattr(self.inner.config.get_text_config(), "num_hidden_layers", None)
        return narrow.last_layer(self.inner, layers) if route.can_narrow(self.model) else None

    def _remembered(self, prefixes: Sequence[Prefix], room: int) -> Past:
        """Keys and values in blocks, out of those of packed rows."""
        alone = {p.start: p for p in prefixes if p.is_alone}
        nothing = np.zeros(0, dtype=np.int64)
        own = [alone.get(b) or Prefix(b, b + 1, 0, nothing, nothing) for b in range(len(self.position_B))]
        shared = sorted((p for p in prefixes if not p.is_alone), key=lambda p: p.level)
        levels = [list(level) for _, level in groupby(shared, key=lambda p: p.level)]
        made = [
            [_block(alike, self.position_B if is_own else None, room if is_own else 0) for alike in _alike(level)]
            for level, is_own in ((own, True), *((level, False) for level in levels))
        ]
        todo = [(block, torch.from_numpy(column_bP).to(self.device)) for blocks in made for block, column_bP in blocks]
        while self.keys:
            key_GLE, value_GLE = (torch.cat(x.pop(0), 1) for x in (self.keys, self.values))
            for block, column_bP in todo:
                block.fill(key_GLE, value_GLE, column_bP)
        own_blocks, *shared_blocks = [[block for block, _ in blocks] for blocks in made]
        return Past(own_blocks, shared_blocks)

    def _vocabulary(self) -> int:
        return int(self.inner.config.get_text_config().vocab_size)


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens that rows ``start``..``stop`` share: their columns among all that was read, and their positions."""

    start: int
    stop: int
    level: int
    """Prefixes of one level have no row in common."""
    column_P: np.ndarray
    position_P: np.ndarray

    @property
    def is_alone(self) -> bool:
        """What only one row has stands in front of what that row says."""
        return self.level == 0 and self.stop == self.start + 1


def _alike(prefixes: Sequence[Prefix]) -> Iterator[list[Prefix]]:
    """Prefixes of as many rows each, and of so like length that another block would cost more."""
    part: list[Prefix] = []
    filled = 0
    for p in sorted(prefixes, key=lambda p: (p.stop - p.start, -len(p.column_P), p.start)):
        more = len(part[0].column_P) - len(p.column_P) if part else 0
        if part and (part[0].stop - part[0].start != p.stop - p.start or filled + more > FILLED):
            yield part
            part, filled, more = [], 0, 0
        part.append(p)
        filled += more
    yield part


def _block(prefixes: Sequence[Prefix], said_from_B: np.ndarray | None, room: int) -> tuple[Block, np.ndarray]:
    """Prefixes side by side, without keys and values yet, and the (b, P) columns where these come from. What rows
    say comes behind, at positions from ``said_from_B``."""
    prefixes = sorted(prefixes, key=lambda p: p.start)
    longest = max(len(p.column_P) for p in prefixes)
    row_bn = np.stack([np.arange(p.start, p.stop) for p in prefixes])
    position_bC = np.full((len(prefixes), longest + room), NOWHERE)
    column_bP = np.zeros((len(prefixes), longest), dtype=np.int64)
    for i, p in enumerate(prefixes):
        front = longest - len(p.column_P)
        position_bC[i, front:longest], column_bP[i, front:] = p.position_P, p.column_P
    if said_from_B is not None:
        position_bC[:, longest:] = said_from_B[row_bn] + np.arange(room)
    return Block(row_bn, position_bC, longest), column_bP


def _shared(tree: Tree) -> list[tuple[list[int], int, np.ndarray]]:
    """The pieces in which the keys of a packed row are kept: (prompts that see it, in order; level; columns).

    Every prompt's columns are its own piece (level 0), less those that are worth sharing.
    """
    end = {int(column[-1]): n for n, column in sorted(tree.columns.items())}
    passing: list[list[int]] = [[] for _ in tree.segments]
    of_column = np.repeat(np.arange(len(tree.segments)), [s.end - s.start for s in tree.segments])
    for column_at, n in end.items():
        for s in tree.path(int(of_column[column_at])):
            passing[s].append(n)
    pieces: list[tuple[list[int], int, np.ndarray]] = []
    apart = np.zeros(len(tree.ids_L), dtype=bool)
    for segment, members in zip(tree.segments, passing, strict=True):
        if (segment.end - segment.start) * (len(members) - 1) >= SPLIT_SAVES:
            apart[segment.start : segment.end] = True
            pieces.append((sorted(members), segment.depth + 1, np.arange(segment.start, segment.end)))
    for n, column in tree.columns.items():
        rest = column[~apart[column]]
        if len(rest):
            pieces.append(([n], 0, rest))
    return pieces


# -- which models

_REFUSALS: WeakKeyDictionary[nn.Module, tuple[str | None]] = WeakKeyDictionary()


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot decode from trees (None: it can). Found out once a model, and said once.

    Besides what prefix trees ask of it (``route.refusal``), it is *tried*: a few tokens are decoded both from
    a tree and as whole rows, and this way is used only if the numbers agree.
    """
    if model not in _REFUSALS:
        why = route.refusal(model)
        if why is None:
            try:
                why = _tried(model)
            except NotInTrees as error:
                why = error.message
            except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
                why = f"a trial failed: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
            if why is not None:
                warnings.warn(
                    f"{type(model).__name__} does not share prompts between samples ({why}): "
                    "sampling pads its prompts, which is slower and draws from the same distribution",
                    stacklevel=2,
                )
        _REFUSALS[model] = (why,)
    return _REFUSALS[model][0]


@torch.no_grad()
def _tried(model: nn.Module) -> str | None:
    vocabulary = int(score.backbone(model).config.get_text_config().vocab_size)  # type: ignore[union-attr,operator]
    prompts = [tuple(i % vocabulary for i in p) for p in ((1, 2, 3), (1, 2, 3, 4, 5), (6, 7))]
    prompts = sorted(set(prompts))
    row_B = [i for i in range(len(prompts)) for _ in range(2)]
    said_BT = (torch.arange(len(row_B) * 3).reshape(-1, 3) * 5 + 3) % vocabulary
    device = next(model.parameters()).device
    said_BT = said_BT.to(device)
    hidden: list[Tensor] = []
    with score.evaluating(model), torch.autocast(device.type, enabled=False):
        decoder = TreeDecoder(model, prompts, row_B, 3)
        for t in range(3):
            hidden.append(decoder.hidden_BD)
            decoder.step(said_BT[:, t])
        hidden.append(decoder.hidden_BD)
        padded = score.pad_rows([(*prompts[i], *said) for i, said in zip(row_B, said_BT.tolist())], device=device)
        plain_BLD = score.forward_hidden(model, padded).double()
    ours = torch.stack(hidden, 1).double()
    theirs = torch.stack([plain_BLD[b, len(prompts[i]) - 1 :][:4] for b, i in enumerate(row_B)])
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(next(model.parameters()).dtype, 5e-2)
    off = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    return None if off <= tolerance else f"a trial was off by {off:.1e}"
