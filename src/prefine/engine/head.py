"""The output head: log-probabilities of given tokens without ever holding all logits.

    log p(y | h) = z_y - log sum_v exp z_v,   z = cap(scale (W h + b)),   cap(z) = c tanh(z / c) where a model caps

The vocabulary is walked in chunks with a running maximum and sum. Forward keeps two numbers a token; backward
walks the chunks again, so that the gradient of W is written once and in place, and peak memory is tokens x chunk
instead of tokens x vocabulary. Up to a fixed amount of memory the probabilities are kept instead, which saves the
second walk's matrix multiply; a frozen head needs no second walk at all.

Shapes: M tokens, D hidden size, V vocabulary, C its part in one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_NUMBERS = 1 << 22
"""Most numbers (tokens x vocabulary) that a chunk may have: 16 MB in float32."""

KEPT_NUMBERS = 1 << 26
"""So many probabilities are kept for the backward pass (256 MB in float32), those beyond are computed again."""

LEAST_COLUMNS = 256
"""A chunk has at least so many columns, since narrower matrix multiplies are slow."""


@dataclass(frozen=True, eq=False)
class OutputHead:
    """What a model does to hidden states to get its logits."""

    linear: nn.Module
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden_MD: Tensor) -> Tensor:
        logits_MV = self.linear(hidden_MD)
        logits_MV = logits_MV if self.scale == 1.0 else logits_MV * self.scale
        return logits_MV if self.cap is None else torch.tanh(logits_MV / self.cap) * self.cap

    @property
    def is_plain(self) -> bool:
        """Whether weight and bias say all: not an adapter, not quantised, nobody looking on (FSDP, a hook)."""
        linear = self.linear
        hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks, linear._backward_pre_hooks)
        return type(linear) is nn.Linear and type(linear.weight) is nn.Parameter and not any(hooks)


def chunked_logp(
    head: OutputHead,
    hidden_MD: Tensor,
    target_M: Tensor,
    *,
    chunk: int = CHUNK_NUMBERS,
    keep: int = KEPT_NUMBERS,
) -> Tensor:
    """(M,) log-probability of every target under a plain head. Differentiable; float32 or better.

    Under autocast the matrix multiplies run in its precision, as the layer itself would.
    """
    kind = hidden_MD.device.type
    linear: Any = head.linear
    operands = [hidden_MD, linear.weight, linear.bias]
    if torch.is_autocast_enabled(kind):
        operands = [None if x is None else x.to(torch.get_autocast_dtype(kind)) for x in operands]
    with torch.autocast(kind, enabled=False):
        return _Logp.apply(*operands, target_M, head.scale, head.cap, chunk, keep)


class _Logp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        target_M: Tensor,
        scale: float,
        cap: float | None,
        chunk: int,
        keep: int,
    ) -> Tensor:
        problem = _Problem(hidden_MD, weight_VD, bias_V, target_M, scale, cap, chunk)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        trained = for_weight or for_bias
        # cap'(z) depends on z, so a capped head is walked again.
        room = keep if trained and cap is None else 0
        averages = for_hidden and not trained and cap is None
        wide = _wide(hidden_MD.dtype)
        top_M = hidden_MD.new_full((len(target_M),), torch.finfo(wide).min, dtype=wide)
        sum_M, hit_M = torch.zeros_like(top_M), torch.zeros_like(top_M)
        mean_MD = hidden_MD.new_zeros(hidden_MD.shape, dtype=wide) if averages else None
        kept: list[Tensor] = []
        for start, stop in problem.chunks():
            z_MC = problem.logits(start, stop)
            inside_M, at_M = problem.targets(start, stop)
            hit_M = torch.where(inside_M, z_MC.gather(1, at_M[:, None])[:, 0], hit_M)
            higher_M = torch.maximum(top_M, z_MC.amax(-1))
            shrink_M = (top_M - higher_M).exp_()
            p_MC = z_MC.sub_(higher_M[:, None]).exp_()
            sum_M = sum_M * shrink_M + p_MC.sum(-1)
            top_M = higher_M
            if mean_MD is not None:
                mean_MD = mean_MD.mul_(shrink_M[:, None]).add_(p_MC.to(weight_VD.dtype) @ weight_VD[start:stop])
            room -= p_MC.numel()
            if room >= 0:
                kept += [p_MC, higher_M]
        lse_M = top_M + sum_M.log()
        # Expected embedding of the next token, for a head that is not trained: d logp / d h = scale (W_y - mean).
        slope_MD = None
        if mean_MD is not None:
            slope_MD = (weight_VD[target_M] - mean_MD.div_(sum_M[:, None])).mul_(scale)
        ctx.problem = (scale, cap, chunk)
        ctx.save_for_backward(hidden_MD, weight_VD, bias_V, target_M, lse_M, slope_MD, *kept)
        return hit_M - lse_M

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_M: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, bias_V, target_M, lse_M, slope_MD, *kept = ctx.saved_tensors
        nothing = (None,) * 5
        if slope_MD is not None:
            return ((slope_MD * grad_M[:, None]).to(hidden_MD.dtype), None, None, *nothing)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        scale, cap, chunk = ctx.problem
        problem = _Problem(hidden_MD, weight_VD, bias_V, target_M, scale, cap, chunk)
        narrow = hidden_MD.dtype
        hidden_grad_MD = torch.zeros_like(hidden_MD, dtype=lse_M.dtype) if for_hidden else None
        weight_grad_VD = torch.empty_like(weight_VD) if for_weight else None
        bias_grad_V = torch.empty_like(bias_V) if for_bias else None
        for i, (start, stop) in enumerate(problem.chunks()):
            # d logp_y / d z_v = [v = y] - p_v
            slope_MC: Tensor | None = None
            if 2 * i < len(kept):
                p_MC, top_M = kept[2 * i : 2 * i + 2]
                d_MC = p_MC * (-grad_M * (top_M - lse_M).exp_())[:, None]
            else:
                z_MC = problem.logits(start, stop)
                slope_MC = None if cap is None else 1 - (z_MC / cap).square_()
                d_MC = z_MC.sub_(lse_M[:, None]).exp_().mul_(-grad_M[:, None])
            inside_M, at_M = problem.targets(start, stop)
            d_MC.scatter_add_(1, at_M[:, None], torch.where(inside_M, grad_M, 0.0)[:, None])
            d_MC = d_MC if slope_MC is None else d_MC.mul_(slope_MC)
            d_MC = d_MC if scale == 1.0 else d_MC.mul_(scale)
            if bias_grad_V is not None:
                bias_grad_V[start:stop] = d_MC.sum(0)
            d_MC = d_MC.to(narrow)
            if hidden_grad_MD is not None:
                hidden_grad_MD += d_MC @ weight_VD[start:stop]
            if weight_grad_VD is not None:
                torch.mm(d_MC.t(), hidden_MD, out=weight_grad_VD[start:stop])
        hidden_grad_MD = None if hidden_grad_MD is None else hidden_grad_MD.to(narrow)
        return (hidden_grad_MD, weight_grad_VD, bias_grad_V, *nothing)


@dataclass(frozen=True)
class _Problem:
    """The logits, a chunk of the vocabulary at a time."""

    hidden_MD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    target_M: Tensor
    scale: float
    cap: float | None
    chunk: int

    def chunks(self) -> Iterator[tuple[int, int]]:
        vocabulary = len(self.weight_VD)
        columns = max(LEAST_COLUMNS, self.chunk // max(len(self.hidden_MD), 1))
        return ((start, min(start + columns, vocabulary)) for start in range(0, vocabulary, columns))

    def logits(self, start: int, stop: int) -> Tensor:
        """(M, C), a tensor of its own, in float32 or better."""
        bias_C = None if self.bias_V is None else self.bias_V[start:stop]
        z_MC = nn.functional.linear(self.hidden_MD, self.weight_VD[start:stop], bias_C)
        z_MC = z_MC if self.scale == 1.0 else z_MC * self.scale
        z_MC = z_MC if self.cap is None else torch.tanh(z_MC / self.cap) * self.cap
        return z_MC.to(_wide(z_MC.dtype))

    def targets(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """(M,) whether a target is in the chunk, and where (somewhere, if it is not)."""
        at_M = self.target_M - start
        return (at_M >= 0) & (at_M < stop - start), at_M.clamp(0, stop - start - 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
