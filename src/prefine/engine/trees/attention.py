"""How a packed tree goes through a transformers model: its attention, exact and without a mask.

transformers lets a model's attention be replaced by name. ``in_tree`` switches a model to ours for one forward
pass and tells it the tree; everything else of the model stays as it is. Layers that gradient checkpointing
computes again during the backward pass find the same tree there.

The kernel is chosen by the kind of device (``KERNELS``): ``pieces`` on a CPU, ``flex`` on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
