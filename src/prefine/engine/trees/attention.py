"""How a packed tree goes through a transformers model: its attention, exact and without a mask.

transformers lets a model's attention be replaced by name. ``in_tree`` switches a model to ours for one forward
pass and tells it the tree; everything else of the model stays as it is. Layers that gradient checkpointing
computes again during the backward pass find the same tree there.

The kernel is chosen by the kind of device (``KERNELS``): ``pieces`` on a CPU, ``flex`` on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prefine.engine.trees import narrow
from prefine.engine.trees.layout import Layout
from prefine.engine.trees.pieces import by_path, in_pieces
from prefine.errors import InputError

NAME = "prefine_tree"


class NotInTrees(InputError, ValueError):
    """This model does something in its attention that a tree cannot honour."""

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="leave the layout at auto or padded: every row is then computed whole")


# -- which kernel goes where


def _in_blocks(*args: Any, **kwargs: Any) -> Tensor:
    """The kernel of ``engine.trees.flex``, which stands on this file."""
    from prefine.engine.trees import flex

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
    expect_one_row(module, query, key, attention_mask, dropout, others, length=len(layout.tree.ids_L))
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


def expect_one_row(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    others: Mapping[str, Any],
    *,
    length: int,
) -> None:
    """Refuse what a model asks of its attention beside causal attention over one row of so many columns."""
    strange = sorted(name for name, x in others.items() if x is not None and name not in IGNORED)
    if strange or others.get("is_causal") is False:
        raise NotInTrees(f"its attention is given {', '.join(strange) or 'no causal mask'}")
    if attention_mask is not None or query.shape[0] != 1 or not query.shape[2] == key.shape[2] == length:
        raise NotInTrees("it makes attention masks or keys of its own")
    if dropout > 0:
        raise NotInTrees("it drops attention out")
    if not getattr(module, "is_causal", True):
        raise NotInTrees("its attention is not causal")


def announce(name: str, attention: Callable[..., Any], inside: ContextVar[Any]) -> None:
    """Tell transformers about an attention of ours. Again is harmless.

    No mask is made where ``inside`` is set; elsewhere (another thread) it is the library's.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def mask(**kwargs: Any) -> Any:
        return None if inside.get() is not None else sdpa_mask(**kwargs)

    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)


def configurations(module: nn.Module) -> list[Any]:
    """The configurations in which the module's layers look up their attention."""
    found = {id(c): c for m in module.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if "_attn_implementation_internal" in getattr(c, "__dict__", {})]


@contextmanager
def attention_named(name: str, configs: Sequence[Any]) -> Iterator[None]:
    """Inside, the layers that look there find the attention of this name."""
    held = [c._attn_implementation_internal for c in configs]
    for c in configs:
        c._attn_implementation_internal = name
    try:
        yield
    finally:
        for c, before in zip(configs, held, strict=True):
            c._attn_implementation_internal = before


@contextmanager
def in_tree(module: nn.Module, layout: Layout, calls: list[int | None] | None = None) -> Iterator[None]:
    """Inside, the module's attention is that of the tree. ``calls`` is told of every attention layer."""
    announce(NAME, attend, _LAYOUT)
    configs = configurations(module)
    again: list[Any] = [m for m in module.modules() if getattr(m, "gradient_checkpointing", False)]
    again = [m for m in again if "_gradient_checkpointing_func" in vars(m)]
    saved = [vars(m)["_gradient_checkpointing_func"] for m in again]

    @contextmanager
    def switched() -> Iterator[None]:
        token, told = _LAYOUT.set(layout), _CALLS.set(calls)
        try:
            with attention_named(NAME, configs):
                yield
        finally:
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
