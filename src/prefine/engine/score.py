"""Log-probabilities of response tokens under any transformers causal model.

``logp_of`` is the one door; behind it live the routes, in ``ROUTES``. "padded" is the plain computation every
faster route must agree with: rows padded to the longest, explicit attention mask, positions counted from the
mask (so padding left or right gives the same numbers), only response positions through the output head, and
the log-softmax in float32 whatever the model computes in. "tree" computes shared prefixes once; "auto" chooses
between the two (``engine.trees.route``).

Shapes: N rows, L their padded length, T response positions, M response tokens in all rows, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefine.engine.batch import collate, cut, encode_contrasts
from prefine.engine.head import OutputHead, chunked_logp
from prefine.policies.base import Limits, Policy, Row
from prefine.slate import Contrast

Side = Literal["left", "right"]


class Route(Protocol):
    """A way to compute ((N, T) response log-probabilities, (N,) prompt sums or None)."""

    def __call__(
        self, model: nn.Module, rows: Sequence[Row], width: int, *, with_prompt: bool
    ) -> tuple[Tensor, Tensor | None]: ...


def logp_of(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    width: int | None = None,
    with_prompt: bool = False,
    route: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """((N, T) log-probability of every response token, (N,) sum over the prompt's tokens when asked for).

    log p(y_t | x, y_<t) at [n, t]; 0 where a row has no token that counts. ``width`` is T (default: the longest
    response). The first token of a prompt follows nothing, so it has no part in the prompt sum. Differentiable;
    float32 or better.
    """
    longest = max((len(row.response) for row in rows), default=0)
    return ROUTES[chosen(route)](model, rows, longest if width is None else width, with_prompt=with_prompt)


_LAYOUT: ContextVar[str] = ContextVar("layout", default="auto")


@contextmanager
def laid_out(layout: str) -> Iterator[None]:
    """Inside, what is left to "auto" goes in this layout (a name of ``ROUTES``)."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def chosen(route: str = "auto") -> str:
    """The route that is taken: "auto" is what ``laid_out`` says, if anything."""
    return _LAYOUT.get() if route == "auto" else route


# -- the padded route


@dataclass(frozen=True)
class Padded:
    """Rows as one rectangle: ids, which of them are real, and the position of each in its own row."""

    ids_NL: Tensor
    real_NL: Tensor
    position_NL: Tensor
    start_N: tuple[int, ...]
    """The column at which each row begins."""


def pad_rows(
    rows: Sequence[Sequence[int]], *, device: torch.device | str | None = None, side: Side = "right", fill: int = 0
) -> Padded:
    """Pad to the longest. Positions are counted from the mask, so they do not know about the padding.

    >>> pad_rows([[5, 6, 7], [8]], side="left").position_NL.tolist()
    [[0, 1, 2], [0, 0, 0]]
    """
    length = max((len(row) for row in rows), default=0)
    ids = np.full((len(rows), length), fill, dtype=np.int64)
    real = np.zeros((len(rows), length), dtype=np.int64)
    start = [0 if side == "right" else length - len(row) for row in rows]
    for n, row in enumerate(rows):
        ids[n, start[n] : start[n] + len(row)] = row
        real[n, start[n] : start[n] + len(row)] = 1
    position = np.maximum(real.cumsum(-1) - 1, 0)
    to = [torch.from_numpy(a).to(device) for a in (ids, real, position)]
    return Padded(to[0], to[1], to[2], tuple(start))


def padded_logp(
    model: nn.Module, rows: Sequence[Row], width: int, *, with_prompt: bool, side: Side = "right"
) -> tuple[Tensor, Tensor | None]:
    """The plain route: one forward pass over padded rows."""
    if not all(row.prompt for row in rows):
        raise ValueError("a row without a prompt token has nothing that its first response token follows")
    device = next(model.parameters()).device
    padded = pad_rows([row.prompt + row.response for row in rows], device=device, side=side)
    # Every scored token: its row, the column that predicts it (the one before it) and where its number goes.
    at = [(n, padded.start_N[n] + len(row.prompt) + t - 1, t) for n, row in enumerate(rows) for t in _counted(row)]
    before = (
        [(n, padded.start_N[n] + t - 1) for n, row in enumerate(rows) for t in range(1, len(row.prompt))]
        if with_prompt
        else []
    )
    row_M = torch.tensor([n for n, *_ in at] + [n for n, _ in before], dtype=torch.long, device=device)
    column_M = torch.tensor([c for _, c, _ in at] + [c for _, c in before], dtype=torch.long, device=device)
    slot_M = torch.tensor([t for *_, t in at], dtype=torch.long, device=device)
    logp_M = token_logp(model, padded, row_M, column_M)
    responses = len(at)
    logp_NT = logp_M.new_zeros(len(rows), width).index_put((row_M[:responses], slot_M), logp_M[:responses])
    if not with_prompt:
        return logp_NT, None
    return logp_NT, logp_M.new_zeros(len(rows)).index_add(0, row_M[responses:], logp_M[responses:])


def _in_trees(name: str) -> Route:
    """A route of ``engine.trees.route``, which stands on this file."""

    def route(model: nn.Module, rows: Sequence[Row], width: int, *, with_prompt: bool) -> tuple[Tensor, Tensor | None]:
        from prefine.engine.trees import route as tree_route

        return getattr(tree_route, name)(model, rows, width, with_prompt=with_prompt)

    return route


ROUTES: Mapping[str, Route] = {"padded": padded_logp, "tree": _in_trees("tree_logp"), "auto": _in_trees("auto_logp")}
"""How log-probabilities can be computed; all give the same numbers to floating-point accuracy."""


def token_logp(model: nn.Module, padded: Padded, row_M: Tensor, column_M: Tensor) -> Tensor:
    """(M,) log-probability of the token one to the right of every (row, column), from one forward pass."""
    target_M = padded.ids_NL[row_M, column_M + 1]
    head = output_head(model)
    if head is None:
        logits_MV = forward_logits(model, padded)[row_M, column_M]
        return log_softmax_at(logits_MV, target_M)
    return head_logp(head, forward_hidden(model, padded)[row_M, column_M], target_M)


def head_logp(head: Head, hidden_MD: Tensor, target_M: Tensor) -> Tensor:
    """(M,) log-probability of every target: in chunks of the vocabulary where the head is a plain layer."""
    if isinstance(head, OutputHead) and getattr(head.linear, "runs_inside", False):  # see engine.sharding
        return head.linear(hidden_MD, inside=lambda hidden_MD: chunked_logp(head, hidden_MD, target_M))
    if isinstance(head, OutputHead) and head.is_plain:
        return chunked_logp(head, hidden_MD, target_M)
    # Without a gradient nothing is kept, so chunks hold the memory for logits down; with one they would not.
    size = len(target_M) if torch.is_grad_enabled() else 4096
    chunks = zip(hidden_MD.split(max(size, 1)), target_M.split(max(size, 1)), strict=True)
    return torch.cat([log_softmax_at(head(hidden), target) for hidden, target in chunks])


def log_softmax_at(logits_MV: Tensor, target_M: Tensor) -> Tensor:
    """(M,) log softmax(logits)[target], in float32 or better, under autocast too."""
    with torch.autocast(logits_MV.device.type, enabled=False):
        wide = logits_MV.float() if logits_MV.dtype in (torch.float16, torch.bfloat16) else logits_MV
        return -F.cross_entropy(wide, target_M, reduction="none")


def _counted(row: Row) -> Iterator[int]:
    return (t for t, counts in enumerate(row.mask) if counts)


# -- the model: backbone and head


def forward_hidden(model: nn.Module, padded: Padded) -> Tensor:
    """(N, L, D) what the backbone gives the output head."""
    return _call(backbone(model), padded).last_hidden_state


def forward_logits(model: nn.Module, padded: Padded) -> Tensor:
    """(N, L, V) logits of the whole model."""
    return _call(model, padded).logits


def backbone(model: nn.Module) -> nn.Module:
    """The model without its output head (adapters are inside it)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return inner.base_model  # type: ignore[return-value]


def _call(module: nn.Module, padded: Padded) -> Any:
    inputs = {"attention_mask": padded.real_NL, "position_ids": padded.position_NL, "use_cache": False}
    taken = accepted(module)
    return module(padded.ids_NL, **{name: value for name, value in inputs.items() if name in taken})


_ACCEPTED: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def accepted(module: nn.Module) -> frozenset[str]:
    """The arguments that a model's forward pass knows (some, like BLOOM's, take no positions)."""
    if module not in _ACCEPTED:
        inner = module.get_base_model() if hasattr(module, "get_base_model") else module  # type: ignore[operator]
        _ACCEPTED[module] = frozenset(inspect.signature(inner.forward).parameters)  # type: ignore[union-attr]
    return _ACCEPTED[module]


Head = Callable[[Tensor], Tensor]
_HEADS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def output_head(model: nn.Module) -> Head | None:
    """Hidden states -> logits, as this model does it, or None when only its whole forward pass can tell.

    Configurations name what a model does to its logits (Gemma 2 caps them, Cohere and Granite scale them).
    Whatever it is, the head is *tried*: a few tokens go both ways once a model, and the head is used only if
    the numbers agree.
    """
    head = _configured_head(model)
    if head is None:
        return None
    if model not in _HEADS:
        _HEADS[model] = _agrees(model, head)
    return head if _HEADS[model] else None


def _configured_head(model: nn.Module) -> OutputHead | None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not hasattr(inner, "get_output_embeddings") or not hasattr(inner, "base_model"):
        return None
    linear = inner.get_output_embeddings()  # type: ignore[operator]
    if linear is None or inner.base_model is inner:
        return None
    config = inner.config.get_text_config()  # type: ignore[union-attr,operator]
    scale = getattr(config, "logit_scale", None) or 1.0
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    return OutputHead(linear, scale, cap)


@torch.no_grad()
def _agrees(model: nn.Module, head: Head) -> bool:
    device = next(model.parameters()).device
    padded = pad_rows([[0, 1, 1, 0], [1, 0]], device=device)
    with evaluating(model), torch.autocast(device.type, enabled=False):
        whole = forward_logits(model, padded)[padded.real_NL.bool()].float()
        split = head(forward_hidden(model, padded))[padded.real_NL.bool()].float()
    tolerance = 1e-4 if next(model.parameters()).dtype in (torch.float32, torch.float64) else 2e-2
    return whole.shape == split.shape and bool((whole - split).abs().max() <= tolerance * whole.abs().max())


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Dropout off inside, every submodule's own mode back afterwards."""
    modes = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


# -- many contrasts


def score_contrasts(
    policy: Policy,
    contrasts: Sequence[Contrast],
    limits: Limits,
    budget: int | None = 8192,
    precision: str = "float32",
) -> list[list[np.ndarray]]:
    """Log-probabilities of every member's response tokens, without gradient and without dropout.

    Gives one list a contrast with one array a member (as long as its row's mask). ``budget`` is in tokens a
    forward pass (see ``batch.cut``). This is how references are scored: in the ``precision`` of the training they
    are for, so that a policy agrees with its own reference before the first step.
    """
    from prefine.engine.learner import autocast

    rows = encode_contrasts(policy, contrasts, limits)
    scored: list[list[np.ndarray]] = [[] for _ in contrasts]
    with torch.no_grad(), evaluating(policy.module):
        for batch in cut(policy, rows, budget):
            collated = collate([rows[i] for i in batch], [contrasts[i].roles for i in batch])
            with autocast(policy.module, precision) if policy.module is not None else nullcontext():
                logp_NT = policy.logp(collated)[0].cpu().numpy()
            per_row = iter(logp_NT)
            for i in batch:
                scored[i] = [next(per_row)[: len(row.mask)].copy() for row in rows[i]]
    return scored
