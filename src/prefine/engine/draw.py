"""Drawing tokens: the inverse of the cumulative distribution, found in two levels.

With p_v = exp(z_v / temperature), sums over blocks of the vocabulary say in which block the cumulative sum first
passes u sum_v p_v, and only that block's entries are added up one by one. So a draw reads the logits a few times
and never writes a cumulative sum over the vocabulary.

Shapes: B rows, V vocabulary, C entries of a block, K the likeliest tokens that top-p looks at.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BLOCK = 128
"""Entries of a block."""

LIKELIEST = 128
"""So many likeliest tokens are looked at first for top-p, then four times as many, and so on."""

SLACK = 8
"""A set that holds top_p but for so many roundings, holds it: they add no token."""


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverse transform, and its log-probability under what drew it: ((B,), (B,)).

    Token v is drawn when the cumulative probability first passes the uniform number. Top-p keeps the smallest
    set of likeliest tokens that holds at least top_p of the probability (after the temperature); of equally
    likely ones, those that come first in the vocabulary.
    """
    if temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros_like(token_B, dtype=torch.float32)
    wide = torch.float64 if logits_BV.dtype == torch.float64 else torch.float32
    rows, vocabulary = logits_BV.shape
    blocks = -(-vocabulary // BLOCK)
    p_BV = torch.empty(rows, blocks * BLOCK, dtype=wide, device=logits_BV.device)
    p_BV[:, vocabulary:] = 0
    inside_BV = p_BV[:, :vocabulary]
    torch.sub(logits_BV, logits_BV.amax(-1, keepdim=True), out=inside_BV)
    inside_BV = inside_BV if temperature == 1 else inside_BV.div_(temperature)
    inside_BV.exp_()
    if top_p < 1:
        _keep_nucleus(inside_BV, top_p)
    return _inverse(p_BV, uniform_B)


def _inverse(p_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities from unnormalised probabilities, whole blocks of them."""
    precise = torch.float32 if p_BV.device.type == "mps" else torch.float64
    below_one = 1 - 1e-6 if precise == torch.float32 else 1 - 1e-12
    p_BKC = p_BV.unflatten(1, (-1, BLOCK))
    cdf_BK = p_BKC.sum(-1).to(precise).cumsum(-1)
    # Strictly below the last entry, so a block is found, and one that holds something.
    mark_B1 = (uniform_B.to(precise).clamp(max=below_one) * cdf_BK[:, -1])[:, None]
    block_B1 = torch.searchsorted(cdf_BK, mark_B1, right=True)
    before_B1 = torch.where(block_B1 > 0, cdf_BK.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    size_B1 = cdf_BK.gather(1, block_B1) - before_B1
    cdf_BC = p_BKC[torch.arange(len(p_BKC), device=p_BV.device), block_B1[:, 0]].to(precise).cumsum(-1)
    # The same within the block, scaled by its own last entry: the two sums differ by rounding.
    inner_B1 = ((mark_B1 - before_B1) / size_B1).clamp(0, below_one) * cdf_BC[:, -1:]
    token_B1 = block_B1 * BLOCK + torch.searchsorted(cdf_BC, inner_B1, right=True)
    logp_B1 = p_BV.gather(1, token_B1).to(precise).log() - cdf_BK[:, -1:].log()
    return token_B1[:, 0], logp_B1[:, 0].to(p_BV.dtype)


def _keep_nucleus(p_BV: Tensor, top_p: float) -> None:
    """Zero what is outside of the nucleus, in place.

    The least likely token of the nucleus is found among the likeliest few, so nothing is sorted whole where the
    distribution is sharp.
    """
    vocabulary = p_BV.shape[1]
    need_B1 = p_BV.sum(-1, keepdim=True).double() * (top_p * (1 - SLACK * torch.finfo(p_BV.dtype).eps))
    look = min(LIKELIEST, vocabulary)
    todo_B = torch.arange(len(p_BV), device=p_BV.device)
    least_B1 = torch.zeros_like(p_BV[:, :1])
    above_B1 = torch.zeros_like(need_B1)
    while len(todo_B):
        top_BK = (p_BV if len(todo_B) == len(p_BV) else p_BV[todo_B]).topk(look, dim=-1).values
        cdf_BK = top_BK.double().cumsum(-1)
        need = need_B1[todo_B]
        found_B = (cdf_BK[:, -1:] >= need)[:, 0] if look < vocabulary else torch.ones_like(todo_B, dtype=torch.bool)
        last_B1 = torch.searchsorted(cdf_BK, need).clamp(max=look - 1)
        value_B1 = top_BK.gather(1, last_B1)
        done_B = todo_B[found_B]
        least_B1[done_B] = value_B1[found_B]
        above_B1[done_B] = torch.where(top_BK > value_B1, top_BK, 0.0).double().sum(-1, keepdim=True)[found_B]
        todo_B, look = todo_B[~found_B], min(4 * look, vocabulary)
    # Of the tokens that are just as likely as the least likely one, as many as are needed.
    tied_BV = p_BV == least_B1
    ties_B1 = ((need_B1 - above_B1) / least_B1.double()).ceil().clamp(min=1)
    outside_BV = p_BV < least_B1
    if bool((tied_BV.sum(-1, keepdim=True) > ties_B1).any()):
        outside_BV |= tied_BV & (tied_BV.cumsum(-1) > ties_B1)
    p_BV.masked_fill_(outside_BV, 0.0)


def uniforms(seed: int, k: int, count: int) -> np.ndarray:
    """(count,) the uniform numbers of sample k of the prompt with this seed. A counter-based generator, keyed:
    the same on every machine, and independent between samples."""
    key = np.array([seed % (1 << 64), k], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)
