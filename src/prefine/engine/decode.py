"""Decoding from prefix trees: what prompts have in common is computed and kept once, for all their continuations.

Prompts are read as packed trees (``engine.tree``), without padding. Their keys and values stay in pieces: what only
one prompt has, and what several share, each kept once however many rows continue it. A step gives every row one
token, as one packed row through the model's own modules with attention of ours (``engine.decode_attention``).

``TreeDecoder`` has the face of ``sample.Decoder``, the plain way, which remains for models that cannot do this
(``refusal``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine import score, tree_route
from prefine.engine.attention import NotInTrees, attend, in_tree
from prefine.engine.decode_attention import How, Own, Prefix, attending, configurations, register, step
from prefine.engine.tree import Tree, grow, pack

PREFILL_TOKENS = 8192
"""Most columns of a packed row of prompts, where trees can be divided."""

SPLIT_SAVES = 128
"""Prompts share the keys of a prefix if that saves at least so many tokens of reading a step: a piece of attention
has its own cost."""

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
        self.inner: Any = score.backbone(model)
        head = score.output_head(model)
        assert head is not None, "a model without one is refused"
        self.head = head
        self.device = next(model.parameters()).device
        self.configs = configurations(self.inner)
        self.taken = score.accepted(self.inner)
        self.own = Own(room)
        self.t = 0
        bounds = np.searchsorted(np.asarray(row_B), np.arange(len(prompts) + 1))
        self.prefixes, last_PD = self._read(prompts, bounds)
        self.runs = _runs(self.prefixes)
        self.position_B = np.asarray([len(prompts[i]) for i in row_B], dtype=np.int64)
        self.hidden_BD = last_PD[torch.as_tensor(row_B, device=self.device)]

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """((rows, (rows, V) logits of what follows them), a few rows at a time)."""
        size = max(1, LOGITS_AT_ONCE // max(1, self._vocabulary()))
        for start in range(0, len(self.hidden_BD), size):
            rows = slice(start, min(start + size, len(self.hidden_BD)))
            yield rows, self.head(self.hidden_BD[rows])

    def keep(self, index_B: Tensor) -> None:
        """Only these rows, in order."""
        at_B = index_B.cpu().numpy()
        self.own.keep(index_B, self.t)
        self.prefixes = [kept for p in self.prefixes if (kept := p.kept(at_B)) is not None]
        self.runs = _runs(self.prefixes)
        self.position_B = self.position_B[at_B]
        self.hidden_BD = self.hidden_BD[index_B]

    def step(self, token_B: Tensor) -> None:
        """Append one token to every row."""
        layer = -1

        def ours(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
            nonlocal layer
            layer += 1
            self.own.write(layer, self.t, key[0].transpose(0, 1), value[0].transpose(0, 1))
            return step(query, layer, self.t, self.own, self.runs, self.position_B, how)

        with attending(self.configs, ours):
            self.hidden_BD = self._forward(token_B, torch.from_numpy(self.position_B).to(self.device))
        self.t += 1
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
        """Keys and values of the prompts, and the (prompts, D) hidden states at their ends."""
        last: dict[int, Tensor] = {}
        prefixes: list[Prefix] = []
        for tree in pack(grow(prompts), PREFILL_TOKENS):
            layout = tree_route.layout_of(tree, self.device)
            row = layout.tree  # which some devices want filled up
            keys: list[Tensor] = []
            values: list[Tensor] = []

            def ours(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
                keys.append(key)  # noqa: B023
                values.append(value)  # noqa: B023
                return attend(
                    module,
                    query,
                    key,
                    value,
                    None,
                    scaling=how.scale,
                    sliding_window=how.window,
                    softcap=how.cap,
                    s_aux=how.sinks_H,
                )[0]

            with in_tree(self.inner, layout), attending(self.configs, ours):
                hidden_LD = self._forward(*(torch.from_numpy(x).to(self.device) for x in (row.ids_L, row.position_L)))
            for n, column in tree.columns.items():
                last[n] = hidden_LD[column[-1]]
            for members, level, column in _shared(tree):
                at = torch.from_numpy(column).to(self.device)
                prefixes.append(
                    Prefix(
                        int(bounds[members[0]]),
                        int(bounds[members[-1] + 1]),
                        level,
                        tree.position_L[column],
                        tuple(k.index_select(2, at) for k in keys),
                        tuple(v.index_select(2, at) for v in values),
                    )
                )
        return prefixes, torch.stack([last[n] for n in range(len(prompts))])

    def _vocabulary(self) -> int:
        return int(self.inner.config.get_text_config().vocab_size)


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


def _runs(prefixes: Sequence[Prefix]) -> list[list[Prefix]]:
    """Prefixes of one level that cover consecutive rows, together."""
    runs: list[list[Prefix]] = []
    for _, group in groupby(sorted(prefixes, key=lambda p: (p.level, p.start)), key=lambda p: p.level):
        for prefix in group:
            if runs and runs[-1][-1].level == prefix.level and runs[-1][-1].stop == prefix.start:
                runs[-1].append(prefix)
            else:
                runs.append([prefix])
    return runs


# -- which models

_REFUSALS: WeakKeyDictionary[nn.Module, tuple[str | None]] = WeakKeyDictionary()


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot decode from trees (None: it can). Found out once a model, and said once.

    Besides what prefix trees ask of it (``tree_route.refusal``), it is *tried*: a few tokens are decoded both from
    a tree and as whole rows, and this way is used only if the numbers agree.
    """
    if model not in _REFUSALS:
        why = tree_route.refusal(model)
        if why is None:
            try:
                why = _tried(model)
            except NotInTrees as error:
                why = str(error)
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
