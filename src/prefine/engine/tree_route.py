"""The tree route of ``engine.score``: rows as packed prefix trees, and when that is the way to go.

"tree" always goes in trees (and says why a model cannot); "auto" does where it saves more than it costs and the
model can, and is the padded route otherwise. The choice is made from the rows and the model alone, so a run makes
the same one again and gives the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prefine.engine import score
from prefine.engine.attention import Layout, NotInTrees, in_tree, why_not, windows
from prefine.engine.tree import Forest, plant
from prefine.policies.base import Row

PIECE_COST = 2e6
"""What one piece of tree attention costs besides its arithmetic, in multiply-adds (some 40 microseconds)."""

FIXED_COST = 1e8
"""The same for making the forest."""


def tree_logp(
    model: nn.Module, rows: Sequence[Row], width: int, *, with_prompt: bool, forest: Forest | None = None
) -> tuple[Tensor, Tensor | None]:
    """One forward pass a packed row of prefix trees; the same numbers as the padded route."""
    if not all(row.prompt for row in rows):
        raise ValueError("a row without a prompt token has nothing that its first response token follows")
    why = refusal(model)
    if why is not None:
        raise NotInTrees(f"{type(model).__name__} cannot go in prefix trees: {why}")
    forest = plant(rows, with_prompt=with_prompt) if forest is None else forest
    if not forest.scored:  # nothing counts: zeros, but with a gradient
        return score.padded_logp(model, rows, width, with_prompt=with_prompt)
    device = next(model.parameters()).device
    head = score.output_head(model)
    assert head is not None, "a model without one is refused"
    parts: list[Tensor] = []
    for scored in forest.scored:
        hidden_LD = forward_hidden(model, Layout.of(scored.tree))
        column_U, target_U = (torch.from_numpy(x).to(device) for x in (scored.column_U, scored.target_U))
        parts.append(score.head_logp(head, hidden_LD.index_select(0, column_U), target_U))
    which_M, row_M, slot_M = (torch.from_numpy(x).to(device) for x in (forest.which_M, forest.row_M, forest.slot_M))
    logp_M = torch.cat(parts).index_select(0, which_M)
    r = forest.responses
    logp_NT = logp_M.new_zeros(len(rows), width).index_put((row_M[:r], slot_M), logp_M[:r])
    if not with_prompt:
        return logp_NT, None
    return logp_NT, logp_M.new_zeros(len(rows)).index_add(0, row_M[r:], logp_M[r:])


def auto_logp(model: nn.Module, rows: Sequence[Row], width: int, *, with_prompt: bool) -> tuple[Tensor, Tensor | None]:
    """Trees where they save more than they cost and the model can, else padded rows."""
    forest = worthwhile(model, rows, with_prompt)
    if forest is not None and refusal(model) is None:
        return tree_logp(model, rows, width, with_prompt=with_prompt, forest=forest)
    return score.padded_logp(model, rows, width, with_prompt=with_prompt)


def worthwhile(model: nn.Module, rows: Sequence[Row], with_prompt: bool = False) -> Forest | None:
    """The rows' forest, if its saved tokens are worth more than its pieces cost."""
    if len(rows) < 2 or not all(row.prompt for row in rows):
        return None
    device = next(model.parameters()).device.type
    plain = len(rows) * max(len(row.prompt) + len(row.response) for row in rows)
    weights, layers = _size(model)
    if device != "cpu" or plain * weights <= FIXED_COST or _drops_out(model):
        return None
    forest = plant(rows, with_prompt=with_prompt)
    # A segment makes a causal piece and, if it branches, a whole one.
    pieces = 2 * forest.segments * layers
    saved = (plain - forest.tokens) * weights
    return forest if saved > pieces * PIECE_COST + FIXED_COST else None


def forward_hidden(model: nn.Module, layout: Layout, calls: list[int | None] | None = None) -> Tensor:
    """(L, D) hidden states of a packed row."""
    inner = score.backbone(model)
    device = next(model.parameters()).device
    ids_1L = torch.from_numpy(layout.tree.ids_L).to(device)[None]
    inputs = {
        # All of it is real. (Without a mask some models look for padding, or for packing, by themselves.)
        "attention_mask": torch.ones_like(ids_1L),
        "position_ids": torch.from_numpy(layout.tree.position_L).to(device)[None],
        "use_cache": False,
    }
    taken = score.accepted(inner)
    with in_tree(inner, layout, calls):
        return inner(ids_1L, **{name: x for name, x in inputs.items() if name in taken}).last_hidden_state[0]


# -- which models

_REFUSALS: WeakKeyDictionary[nn.Module, tuple[str | None]] = WeakKeyDictionary()


def refusal(model: nn.Module) -> str | None:
    """Why a model cannot go in trees (None: it can). Found out once a model, and said once.

    Whatever its form tells, a model is *tried*: a small tree goes both ways, and the route is used only if the
    numbers agree and every layer's attention was that of the tree.
    """
    if model not in _REFUSALS:
        why = _refusal(model)
        _REFUSALS[model] = (why,)
        if why is not None:
            warnings.warn(
                f"{type(model).__name__} does not share prefixes between responses ({why}): "
                "every row is computed whole, which is slower and gives the same numbers",
                stacklevel=2,
            )
    return _REFUSALS[model][0]


def _refusal(model: nn.Module) -> str | None:
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if score.output_head(model) is None:
        return "only its whole forward pass knows its logits"
    backbone: Any = score.backbone(model)
    why = why_not(inner, score.accepted(backbone))
    if why is not None:
        return why
    try:
        return _tried(model, inner.config)
    except NotInTrees as error:
        return str(error)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"a trial failed: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"


@torch.no_grad()
def _tried(model: nn.Module, config: Any) -> str | None:
    text = config.get_text_config()
    vocabulary = int(text.vocab_size)
    paths = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8, 9], [1, 2, 3, 10, 11, 12], [13, 14, 15, 4]]
    rows = [
        Row(tuple(i % vocabulary for i in p[:1]), tuple(i % vocabulary for i in p[1:]), (1.0,) * (len(p) - 1))
        for p in paths
    ]
    device = next(model.parameters()).device
    forest = plant(rows, worth=1 << 30)
    (scored,) = forest.scored
    calls: list[int | None] = []
    with score.evaluating(model), torch.autocast(device.type, enabled=False):
        hidden_LD = forward_hidden(model, Layout.of(scored.tree), calls).double()
        padded = score.pad_rows([row.prompt + row.response for row in rows], device=device)
        plain_NLD = score.forward_hidden(model, padded).double()
    if len(calls) != getattr(text, "num_hidden_layers", len(calls)) or not calls:
        return "not all of its layers attend in the ordinary way"
    told = sum(window is not None for window in calls)
    kinds = getattr(text, "layer_types", None)
    if windows(config) is not None and told != (
        len(calls) if kinds is None else list(kinds).count("sliding_attention")
    ):
        return "its sliding windows are hidden"
    ours = torch.cat([hidden_LD[torch.from_numpy(c).to(device)] for _, c in sorted(scored.tree.columns.items())])
    theirs = torch.cat([plain_NLD[n, : len(c)] for n, c in sorted(scored.tree.columns.items())])
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(next(model.parameters()).dtype, 5e-2)
    off = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    return None if off <= tolerance else f"a trial was off by {off:.1e}"


# -- what it costs and saves

_SIZES: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()


def _size(model: nn.Module) -> tuple[int, int]:
    """(weights that every token is multiplied with, layers), roughly."""
    if model not in _SIZES:
        inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        body = getattr(inner, "base_model", inner)
        looked_up = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
        weights = sum(p.numel() for p in body.parameters() if p.dim() > 1 and id(p) not in looked_up)
        config: Any = getattr(inner, "config", None)
        text = config.get_text_config() if hasattr(config, "get_text_config") else None
        _SIZES[model] = weights, int(getattr(text, "num_hidden_layers", 1) or 1)
    return _SIZES[model]


def _drops_out(model: nn.Module) -> bool:
    """Whether dropout is on: rows that share a prefix would share its noise."""
    return any(
        m.p > 0
        if isinstance(m, nn.Dropout)
        else any("dropout" in k and isinstance(v, float) and v > 0 for k, v in vars(m).items())
        for m in model.modules()
        if m.training
    )
