"""Sampling from a causal model: prompts read once for all their samples, rows that leave when they are done.

Prompts go in prefix trees where the model can (``engine.decode``); ``Decoder`` is the plain way, left-padded
prompts and the library's own cache, which the other must agree with.

The randomness of a sample is its own: sample k of the prompt with seed s draws its uniform numbers from a
generator keyed (s, k), one a token, and each picks a token by the inverse of the cumulative distribution
(``engine.draw``). So what is sampled does not depend on which prompts share a batch, on the order, or on n (up to
the rounding of the model's own arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prefine.engine.decode import TreeDecoder, refusal
from prefine.engine.draw import draw, uniforms
from prefine.engine.score import accepted, evaluating, pad_rows
from prefine.policies.base import Sampling

COMPACT_AT = 0.8
"""Finished rows are taken out of the cache when less than this part of it is still being written."""

LOGITS_AT_ONCE = 1 << 24
"""Most numbers that one step's (rows, vocabulary) logits may have on the plain way, which has them all at once."""


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
    route: str = "auto",
) -> list[list[Drawn]]:
    """``sampling.n`` responses for every prompt (ids, never empty), in order.

    ``decode`` is needed for stop strings. ``budget`` is how many tokens of keys and values a batch may hold.
    ``route``: "tree", "padded", or the first where the model can.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds")
    if sampling.stop and decode is None:
        raise ValueError("stop strings need a way to decode")
    drawn: dict[Job, Drawn] = {}
    with evaluating(model):
        start = ROUTES[route](model)
        ids = [tuple(prompt) for prompt in prompts]
        for jobs, decoder in start(model, ids, sampling, budget):
            for job, result in zip(jobs, _draw_all(decoder, sampling, seeds, jobs, stop_ids, decode), strict=True):
                drawn[job] = result
    return [[drawn[i, k] for k in range(sampling.n)] for i in range(len(prompts))]


class Decoding(Protocol):
    """Rows that grow together."""

    device: torch.device

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """((rows, their (., V) logits of what comes next), for some rows at a time)."""
        ...

    def keep(self, index_B: Tensor) -> None:
        """Only these rows, in this order."""
        ...

    def step(self, token_B: Tensor) -> None:
        """Append one token to every row."""
        ...


class Decoder:
    """Next-token logits of a batch of rows that grow together, with a cache where the model has one."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], fill: int = 0) -> None:
        self.model = model
        padded = pad_rows(prompts, device=next(model.parameters()).device, side="left", fill=fill)
        self.device = padded.ids_NL.device
        self.ids_BL, self.real_BL = padded.ids_NL, padded.real_NL
        self.next_B = padded.real_NL.sum(-1)
        self.cache: Any = None
        output = self._forward(self.ids_BL, padded.position_NL)
        self.logits_BV: Tensor = output.logits[:, -1]
        cache = getattr(output, "past_key_values", None)
        self.cache = cache if hasattr(cache, "reorder_cache") else None

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows at once."""
        yield slice(0, len(self.logits_BV)), self.logits_BV

    def keep(self, index_B: Tensor) -> None:
        """Only these rows, in this order; a row named several times is repeated."""
        self.ids_BL, self.real_BL = self.ids_BL[index_B], self.real_BL[index_B]
        self.next_B, self.logits_BV = self.next_B[index_B], self.logits_BV[index_B]
        if self.cache is not None:
            self.cache.reorder_cache(index_B)

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


Start = Callable[[nn.Module, Sequence[tuple[int, ...]], Sampling, int], Iterator[tuple[list[Job], Decoding]]]
"""Batches of jobs, each with what decodes it."""


def padded_batches(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], sampling: Sampling, budget: int
) -> Iterator[tuple[list[Job], Decoding]]:
    """The plain way: prompts of like length together, rows x (longest prompt + new tokens) within the budget."""
    lengths = [len(p) for p in prompts]
    for jobs in _padded_jobs(lengths, sampling, budget, _row_limit(model)):
        # Each prompt is read once, then its row is repeated for its samples.
        distinct = list(dict.fromkeys(i for i, _ in jobs))
        decoder = Decoder(model, [prompts[i] for i in distinct])
        place = {i: row for row, i in enumerate(distinct)}
        if len(distinct) != len(jobs):
            decoder.keep(torch.tensor([place[i] for i, _ in jobs], device=decoder.device))
        yield jobs, decoder


def tree_batches(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], sampling: Sampling, budget: int
) -> Iterator[tuple[list[Job], Decoding]]:
    """Prefix trees: prompts that begin alike together, batches of like size within the budget."""
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    jobs = [(i, k) for i in order for k in range(sampling.n)]
    cost: list[int] = []  # of each job, given those before it
    for a, b in zip([None, *order], order, strict=False):
        shared = 0 if a is None else _common(prompts[a], prompts[b])
        cost += [len(prompts[b]) - shared + sampling.max_tokens] + [sampling.max_tokens] * (sampling.n - 1)
    batches = max(1, -(-sum(cost) // max(budget, 1)))
    target = min(budget, -(-sum(cost) // batches) + max(cost, default=0))
    start = 0
    while start < len(jobs):
        stop, held = start + 1, len(prompts[jobs[start][0]]) + sampling.max_tokens
        while stop < len(jobs) and held + cost[stop] <= target:
            held += cost[stop]
            stop += 1
        part = jobs[start:stop]
        paths = sorted({prompts[i] for i, _ in part})
        place = {path: n for n, path in enumerate(paths)}
        yield part, TreeDecoder(model, paths, [place[prompts[i]] for i, _ in part], sampling.max_tokens)
        start = stop


def _auto(model: nn.Module) -> Start:
    return tree_batches if refusal(model) is None else padded_batches


ROUTES: Mapping[str, Callable[[nn.Module], Start]] = {
    "auto": _auto,
    "tree": lambda model: tree_batches,
    "padded": lambda model: padded_batches,
}
"""How rows can be decoded; all draw from the same distribution, with the same numbers."""


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _padded_jobs(lengths: Sequence[int], sampling: Sampling, budget: int, row_limit: int) -> Iterator[list[Job]]:
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


def _draw_all(
    decoder: Decoding,
    sampling: Sampling,
    seeds: Sequence[int],
    jobs: Sequence[Job],
    stop_ids: Collection[int],
    decode: Callable[[Sequence[int]], str] | None,
) -> list[Drawn]:
    """What every job says, from where its row stands."""
    device = decoder.device
    longest = sampling.max_tokens
    noise = np.stack([uniforms(seeds[i], k, longest) for i, k in jobs])
    uniform_JT = torch.from_numpy(noise.astype(np.float32) if device.type == "mps" else noise).to(device)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
    token_JT = torch.zeros(len(jobs), longest, dtype=torch.long, device=device)
    logp_JT = torch.zeros(len(jobs), longest, device=device, dtype=torch.float32)
    length_J = torch.full((len(jobs),), longest, dtype=torch.long, device=device)
    ended_J = torch.zeros(len(jobs), dtype=torch.bool, device=device)
    job_B = torch.arange(len(jobs), device=device)
    stopping = Stopping(sampling.stop, decode) if sampling.stop and decode is not None else None
    for t in range(longest):
        uniform_B = uniform_JT[job_B, t]
        parts = [draw(z, uniform_B[rows], sampling.temperature, sampling.top_p) for rows, z in decoder.logits()]
        token_B, logp_B = (torch.cat(x) for x in zip(*parts, strict=True))
        live_B = ~ended_J[job_B]
        # Rows that are done but still in the batch write into what is cut off at their length.
        token_JT[job_B, t], logp_JT[job_B, t] = token_B, logp_B.to(logp_JT.dtype)
        ends_B = torch.isin(token_B, stops) & live_B
        if stopping is not None:
            ends_B |= stopping.ends(token_JT[job_B, : t + 1], live_B & ~ends_B)
        ended_J[job_B] |= ends_B
        length_J[job_B[ends_B]] = t + 1
        live_B = live_B & ~ends_B
        left = int(live_B.sum())
        if left == 0 or t == longest - 1:
            break
        if left < COMPACT_AT * len(job_B):
            index_B = live_B.nonzero()[:, 0]
            decoder.keep(index_B)
            job_B, token_B = job_B[index_B], token_B[index_B]
        decoder.step(token_B)
    lengths, ended = length_J.tolist(), ended_J.tolist()
    return [
        Drawn(tuple(tokens[:length]), tuple(logps[:length]), "end" if end else "length")
        for tokens, logps, length, end in zip(token_JT.tolist(), logp_JT.tolist(), lengths, ended, strict=True)
    ]


class Stopping:
    """Finds stop strings where they end.

    A stop string ends in a token whose text has its last character, so other tokens need no look at their rows.
    Not so where a token has no text of its own (part of a character, a special token), nor for what decoders may
    add or drop beside a token: then every row is looked at.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.stops, self.decode = stops, decode
        self.last = frozenset(stop[-1] for stop in stops if stop)
        self.everywhere = any(not stop or stop[-1].isspace() or stop[-1] == "'" for stop in stops)
        # A text of c characters is at most 4c bytes, so at most 4c tokens.
        self.tail = 4 * max(len(stop) for stop in stops) + 4
        self.may_end: dict[int, bool] = {}

    def ends(self, token_Bt: Tensor, live_B: Tensor) -> Tensor:
        """(B,) whether a stop string has appeared with the last token. The last tokens are looked at first; what
        they show is confirmed on the whole text."""
        result = torch.zeros_like(live_B)
        row_L = live_B.nonzero()[:, 0].tolist()
        last_L = token_Bt[live_B, -1].tolist()
        found = [b for b, token in zip(row_L, last_L, strict=True) if self._looked_at(token)]
        found = [b for b in found if self._stops_in(token_Bt[b, -self.tail :]) and self._stops_in(token_Bt[b])]
        result[found] = True
        return result

    def _looked_at(self, token: int) -> bool:
        if token not in self.may_end:
            text = self.decode([token])
            self.may_end[token] = (
                self.everywhere or not text or "\N{REPLACEMENT CHARACTER}" in text or not self.last.isdisjoint(text)
            )
        return self.may_end[token]

    def _stops_in(self, token_t: Tensor) -> bool:
        text = self.decode(token_t.tolist())
        return any(stop in text for stop in self.stops)
