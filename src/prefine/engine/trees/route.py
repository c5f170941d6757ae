"""The tree route of ``engine.score``: rows as packed prefix trees, and when that is the way to go.

"tree" always goes in trees (and says why a model cannot); "auto" does where it saves more than it costs and the
model can, and is the padded route otherwise. The choice is made from the rows and the model alone, so a run makes
the same one again and gives the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine import score
from prefine.engine.batch import even_parts, microbatches, padded_tokens, row_lengths
from prefine.engine.trees import flex, narrow
from prefine.engine.trees.attention import NotInTrees, in_tree, why_not, windows
from prefine.engine.trees.layout import Layout
from prefine.engine.trees.tree import Forest, Scored, Tree, grow, plant
from prefine.policies.base import Row


@dataclass(frozen=True)
class Costs:
    """What trees cost a kind of device besides the arithmetic of their tokens, in multiply-adds."""

    piece: float
    """Of one piece of tree attention."""
    fixed: float
    """Of making the forest."""
    share: float
    """The least part of the padded tokens that has to be saved: what the attention itself may be slower."""
    multiple: int = 1
    """Packed rows are filled up to a multiple of so many columns."""
    ready: Callable[[torch.device], bool] = lambda device: True


COSTS: Mapping[str, Costs] = {
    # Some 40 microseconds a piece, and a few milliseconds.
    "cpu": Costs(piece=2e6, fixed=1e8, share=0.0),
    # One kernel whatever the pieces; two milliseconds of Python at 1e14 multiply-adds a second.
    "cuda": Costs(piece=0.0, fixed=2e11, share=0.03, multiple=flex.BLOCK, ready=flex.ready),
}
"""By kind of device; on others trees are used only where they are asked for."""


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
        target_U = torch.from_numpy(scored.target_U).to(device)
        parts.append(score.head_logp(head, hidden_at(model, scored), target_U))
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
    plain = padded_tokens([rows])
    if len(rows) < 2 or not all(row.prompt for row in rows) or not _may_pay(model, plain):
        return None
    forest = plant(rows, with_prompt=with_prompt)
    return forest if _pays(model, plain, forest.tokens, forest.segments) else None


def _may_pay(model: nn.Module, plain: int) -> bool:
    """Whether so many padded tokens are enough for trees to be looked at."""
    device = next(model.parameters()).device
    costs = COSTS.get(device.type)
    looked = costs is not None and plain * _size(model)[0] > costs.fixed and not _drops_out(model)
    return looked and costs is not None and costs.ready(device)


def _pays(model: nn.Module, plain: int, tokens: int, segments: int) -> bool:
    weights, layers = _size(model)
    costs = COSTS[next(model.parameters()).device.type]
    # A segment makes a causal piece and, if it branches, a whole one.
    pieces = 2 * segments * layers
    saved = plain - tokens
    return saved * weights > pieces * costs.piece + costs.fixed and saved > costs.share * plain


def cut(model: nn.Module, rows: Sequence[Sequence[Row]], budget: int | None, *, head: bool = True) -> list[list[int]]:
    """Contrasts in micro-batches of at most ``budget`` tokens, counted as they will go through the model.

    ``rows[i]`` are the rows of contrast i. In trees every different token counts once and nothing is padded, so
    a step is often one forward; where trees do not pay it is rows x the longest row.
    """
    padded, layout = microbatches(row_lengths(rows), budget), score.chosen()
    plain = sum(padded_tokens([[row for i in part for row in rows[i]]]) for part in padded)
    whole = all(row.prompt for members in rows for row in members)
    is_looked_at = layout == "tree" or (layout == "auto" and _may_pay(model, plain))
    if not whole or not is_looked_at or refusal(model, head=head) is not None:
        return padded
    trees = [grow([row.prompt + row.response for row in members]) for members in rows]
    sizes = [sum(len(tree.ids_L) for tree in grown) for grown in trees]
    segments = sum(len(tree.segments) for grown in trees for tree in grown)
    in_trees = layout == "tree" or _pays(model, plain, sum(sizes), segments)
    return even_parts(sizes, budget) if in_trees else padded


def layout_of(tree: Tree, device: torch.device) -> Layout:
    """A packed row as this kind of device wants it."""
    return Layout.of(flex.filled(tree, COSTS[device.type].multiple) if device.type in COSTS else tree)


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


def hidden_at(model: nn.Module, scored: Scored) -> Tensor:
    """(U, D) hidden states where something is read, and as little besides as can be (``engine.trees.narrow``)."""
    device = next(model.parameters()).device
    layout = layout_of(scored.tree, device)
    column_W, which_U = np.unique(scored.column_U, return_inverse=True)
    column, which = (torch.from_numpy(x.reshape(-1)).to(device) for x in (column_W, which_U))
    if len(column) <= narrow.WORTH * len(layout.tree.ids_L) and can_narrow(model):
        hidden_WD = narrowed_hidden(model, layout, column)
        if hidden_WD is not None:
            return hidden_WD.index_select(0, which)
    return forward_hidden(model, layout).index_select(0, column.index_select(0, which))


def narrowed_hidden(model: nn.Module, layout: Layout, column_W: Tensor) -> Tensor | None:
    """(W, D) hidden states of some columns, the last layer computing no others; None if it has to."""
    config: Any = model.config
    layer = narrow.last_layer(score.backbone(model), getattr(config.get_text_config(), "num_hidden_layers", None))
    if layer is None:
        return None
    with narrow.only(layer, column_W) as reading:
        hidden_WD = forward_hidden(model, layout)
    if not reading.done or len(hidden_WD) != len(column_W):
        raise NotInTrees("its last layer cannot be narrowed")
    return hidden_WD


_NARROWS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_narrow(model: nn.Module) -> bool:
    """Whether the last layer gives the same numbers narrowed: tried once a model, on a small tree."""
    if model not in _NARROWS:
        try:
            _NARROWS[model] = _narrows(model)
        except TRIAL_ERRORS:
            _NARROWS[model] = False
    return _NARROWS[model]


@torch.no_grad()
def _narrows(model: nn.Module) -> bool:
    device = next(model.parameters()).device
    layout = layout_of(grow([[1, 2, 3, 4, 5], [1, 2, 3, 6]], worth=1 << 30)[0], device)
    column_W = torch.tensor([2, 4, 5], device=device)
    with score.evaluating(model), torch.autocast(device.type, enabled=False):
        ours = narrowed_hidden(model, layout, column_W)
        theirs = forward_hidden(model, layout).index_select(0, column_W)
    return ours is not None and _off(ours, theirs) <= _tolerance(model)


# -- which models

TRIAL_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
"""What a model may answer to a forward pass that it was not made for."""

_REFUSALS: WeakKeyDictionary[nn.Module, dict[bool, str | None]] = WeakKeyDictionary()


def refusal(model: nn.Module, *, head: bool = True) -> str | None:
    """Why a model cannot go in trees (None: it can). Found out once a model, and said once.

    Whatever its form tells, a model is *tried*: a small tree goes both ways, and the route is used only if the
    numbers agree and every layer's attention was that of the tree. ``head``: its logits are wanted, not only its
    hidden states.
    """
    known = _REFUSALS.setdefault(model, {})
    if head not in known:
        known[head] = why = _refusal(model, head)
        if why is not None:
            warnings.warn(
                f"{type(model).__name__} does not share prefixes between responses ({why}): "
                "every row is computed whole, which is slower and gives the same numbers",
                stacklevel=2,
            )
    return known[head]


def _refusal(model: nn.Module, head: bool) -> str | None:
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if head and score.output_head(model) is None:
        return "only its whole forward pass knows its logits"
    backbone: Any = score.backbone(model)
    why = why_not(inner, score.accepted(backbone))
    if why is not None:
        return why
    try:
        return _tried(model, inner.config)
    except NotInTrees as error:
        return error.message
    except TRIAL_ERRORS as error:
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
        hidden_LD = forward_hidden(model, layout_of(scored.tree, device), calls).double()
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
    off = _off(ours, theirs)
    return None if off <= _tolerance(model) else f"a trial was off by {off:.1e}"


def _off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def _tolerance(model: nn.Module) -> float:
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(next(model.parameters()).dtype, 5e-2)


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
