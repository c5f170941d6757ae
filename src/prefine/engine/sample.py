"""Sampling from a causal model: left-padded prompts, one key-value cache, rows that leave when they are done.

The randomness of a sample is its own: sample k of the prompt with seed s draws its uniform numbers from a
generator keyed (s, k), one a token, and each picks a token by the inverse of the cumulative distribution. So
what is sampled does not depend on which prompts share a batch, on the order, or on n (up to the rounding of
the model's own arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine.score import accepted, evaluating, pad_rows
from prefine.policies.base import Sampling

COMPACT_AT = 0.8
"""Finished rows are taken out of the cache when less than this part of it is still being written."""

LOGITS_AT_ONCE = 1 << 24
"""Most numbers that one step's (rows, vocabulary) logits may have."""


@dataclass(frozen=True)
class Drawn:
    """What was sampled: the ids (the end token included), their log-probabilities, and why it stopped.

    ``logps`` are under the distribution that drew the tokens: temperature and top-p included (0 when greedy:
    the token was certain). ``stop``: "end" for an end token or a stop string (which stays in the text),
    "length" when ``max_tokens`` cut it.
    """

    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    stop: Literal["end", "length"]


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    *,
    stop_ids: Collection[int],
    decode: Callable[[Sequence[int]], str] | None = None,
    budget: int = 65536,
) -> list[list[Drawn]]:
    """``sampling.n`` responses for every prompt (ids, never empty), in order.

    ``decode`` is needed for stop strings. ``budget`` is how many tokens of key-value cache a batch may hold.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds")
    if sampling.stop and decode is None:
        raise ValueError("stop strings need a way to decode")
    drawn: dict[tuple[int, int], Drawn] = {}
    with evaluating(model):
        for jobs in _batches([len(p) for p in prompts], sampling, budget, _row_limit(model)):
            for job, result in zip(jobs, _batch(model, prompts, sampling, seeds, jobs, stop_ids, decode), strict=True):
                drawn[job] = result
    return [[drawn[i, k] for k in range(sampling.n)] for i in range(len(prompts))]


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """One token a row by inverse transform, and its log-probability under what drew it: ((B,), (B,)).

    Token v is drawn when the cumulative probability first passes the uniform number. Top-p keeps the smallest
    set of likeliest tokens that holds at least top_p of the probability (after the temperature).
    """
    if temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, torch.zeros_like(token_B, dtype=torch.float32)
    logp_BV = (logits_BV.float() / temperature).log_softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = logp_BV.sort(dim=-1, descending=True, stable=True)
        p_BV = sorted_BV.exp()
        beyond_BV = p_BV.cumsum(-1) - p_BV >= top_p
        beyond_BV[:, 0] = False
        logp_BV = logp_BV.masked_fill(beyond_BV.scatter(-1, order_BV, beyond_BV), -torch.inf).log_softmax(-1)
    wide = torch.float32 if logp_BV.device.type == "mps" else torch.float64
    cdf_BV = logp_BV.exp().to(wide).cumsum(-1)
    # Scaled by the last entry, which rounding leaves a little off 1; strictly below it, so a token is found.
    mark_B = uniform_B.to(wide).clamp(max=1 - 1e-6 if wide == torch.float32 else 1 - 1e-12) * cdf_BV[:, -1]
    token_B = torch.searchsorted(cdf_BV, mark_B[:, None], right=True)[:, 0]
    return token_B, logp_BV.gather(-1, token_B[:, None])[:, 0]


def uniforms(seed: int, k: int, count: int) -> np.ndarray:
    """(count,) the uniform numbers of sample k of the prompt with this seed. A counter-based generator, keyed:
    the same on every machine, and independent between samples."""
    key = np.array([seed % (1 << 64), k], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


class Decoder:
    """Next-token logits of a batch of rows that grow together, with a cache where the model has one."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], fill: int = 0) -> None:
        self.model = model
        padded = pad_rows(prompts, device=next(model.parameters()).device, side="left", fill=fill)
        self.ids_BL, self.real_BL = padded.ids_NL, padded.real_NL
        self.next_B = padded.real_NL.sum(-1)
        self.cache: Any = None
        output = self._forward(self.ids_BL, padded.position_NL)
        self.logits_BV: Tensor = output.logits[:, -1]
        cache = getattr(output, "past_key_values", None)
        self.cache = cache if hasattr(cache, "reorder_cache") else None

    def keep(self, index: Tensor) -> None:
        """Only these rows, in this order; a row named several times is repeated."""
        self.ids_BL, self.real_BL = self.ids_BL[index], self.real_BL[index]
        self.next_B, self.logits_BV = self.next_B[index], self.logits_BV[index]
        if self.cache is not None:
            self.cache.reorder_cache(index)

    def step(self, token_B: Tensor) -> None:
        """Append one token to every row; ``logits_BV`` are then those of what follows."""
        self.real_BL = torch.cat([self.real_BL, torch.ones_like(self.real_BL[:, :1])], 1)
        if self.cache is not None:
            output = self._forward(token_B[:, None], self.next_B[:, None])
        else:
            self.ids_BL = torch.cat([self.ids_BL, token_B[:, None]], 1)
            output = self._forward(self.ids_BL, (self.real_BL.cumsum(-1) - 1).clamp(min=0))
        self.next_B = self.next_B + 1
        self.logits_BV = output.logits[:, -1]

    def _forward(self, ids_BL: Tensor, position_BL: Tensor) -> Any:
        inputs = {"position_ids": position_BL, "past_key_values": self.cache, "logits_to_keep": 1}
        taken = accepted(self.model)
        return self.model(
            input_ids=ids_BL,
            attention_mask=self.real_BL,
            use_cache=True,
            **{name: value for name, value in inputs.items() if name in taken},
        )


Job = tuple[int, int]
"""(prompt, sample): one row."""


def _batches(lengths: Sequence[int], sampling: Sampling, budget: int, row_limit: int) -> Iterator[list[Job]]:
    """Rows in batches of like prompt lengths: rows x (longest prompt + new tokens) within the budget."""
    batch: list[Job] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        for k in range(sampling.n):
            # Sorted, so this prompt is the longest so far.
            cost = (len(batch) + 1) * (lengths[i] + sampling.max_tokens)
            if batch and (cost > budget or len(batch) >= row_limit):
                yield batch
                batch = []
            batch.append((i, k))
    if batch:
        yield batch


def _row_limit(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    vocabulary = getattr(config.get_text_config(), "vocab_size", None) if config is not None else None
    return max(1, LOGITS_AT_ONCE // (vocabulary or 1))


def _batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    jobs: Sequence[Job],
    stop_ids: Collection[int],
    decode: Callable[[Sequence[int]], str] | None,
) -> list[Drawn]:
    device = next(model.parameters()).device
    longest = sampling.max_tokens
    noise = np.stack([uniforms(seeds[i], k, longest) for i, k in jobs])
    uniform_JT = torch.from_numpy(noise.astype(np.float32) if device.type == "mps" else noise).to(device)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    token_JT = torch.zeros(len(jobs), longest, dtype=torch.long, device=device)
    logp_JT = torch.zeros(len(jobs), longest, device=device)
    length_J = torch.full((len(jobs),), longest, dtype=torch.long, device=device)
    ended_J = torch.zeros(len(jobs), dtype=torch.bool, device=device)

    # Each prompt is read once, then its row is repeated for its samples.
    distinct = list(dict.fromkeys(i for i, _ in jobs))
    decoder = Decoder(model, [prompts[i] for i in distinct])
    place = {i: row for row, i in enumerate(distinct)}
    if len(distinct) != len(jobs):
        decoder.keep(torch.tensor([place[i] for i, _ in jobs], device=device))
    job_B = torch.arange(len(jobs), device=device)
    for t in range(longest):
        token_B, logp_B = draw(decoder.logits_BV, uniform_JT[job_B, t], sampling.temperature, sampling.top_p)
        live_B = ~ended_J[job_B]
        # Rows that are done but still in the cache write into what is cut off at their length.
        token_JT[job_B, t], logp_JT[job_B, t] = token_B, logp_B
        ends_B = torch.isin(token_B, stops) & live_B
        if sampling.stop and decode is not None:
            ends_B |= _stopped(token_JT[job_B, : t + 1], live_B & ~ends_B, sampling.stop, decode)
        ended_J[job_B] |= ends_B
        length_J[job_B[ends_B]] = t + 1
        live_B = live_B & ~ends_B
        left = int(live_B.sum())
        if left == 0 or t == longest - 1:
            break
        if left < COMPACT_AT * len(job_B):
            index = live_B.nonzero()[:, 0]
            decoder.keep(index)
            job_B, token_B = job_B[index], token_B[index]
        decoder.step(token_B)
    lengths, ended = length_J.tolist(), ended_J.tolist()
    return [
        Drawn(tuple(tokens[:length]), tuple(logps[:length]), "end" if end else "length")
        for tokens, logps, length, end in zip(token_JT.tolist(), logp_JT.tolist(), lengths, ended, strict=True)
    ]


def _stopped(token_Bt: Tensor, live_B: Tensor, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> Tensor:
    """(B,) whether a stop string has appeared. The last tokens are looked at first: a text of c characters is
    at most 4c bytes, so at most 4c tokens; what they show is confirmed on the whole text."""
    tail = 4 * max(len(stop) for stop in stops) + 4
    stopped = [
        any(stop in decode(row[-tail:]) for stop in stops) and any(stop in decode(row) for stop in stops)
        for row in token_Bt[live_B].tolist()
    ]
    result = torch.zeros_like(live_B)
    result[live_B] = torch.tensor(stopped, dtype=torch.bool, device=live_B.device)
    return result
