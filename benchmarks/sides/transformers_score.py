"""transformers scores rows: what a user writes who wants it fast.

Rows sorted by length and padded to the longest of a batch, SDPA attention, inference mode, the output head on
response positions only, one log-softmax. Runs in the peers' environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.worker import timed

BATCH_TOKENS = 4096
"""Padded tokens a batch may have."""

Ids = tuple[list[int], list[int]]


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    rows = [json.loads(line) for line in Path(settings["ids"]).read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=torch.float32, attn_implementation="sdpa")

    @torch.inference_mode()
    def score(indices: list[int]) -> list[float]:
        flat = [(rows[i]["prompt"], response) for i in indices for response in rows[i]["responses"]]
        sums = [0.0] * len(flat)
        for batch in _batches(flat):
            for n, logp in zip(batch, row_logps(model, [flat[n] for n in batch]), strict=True):
                sums[n] = float(logp.double().sum())
        return sums

    def round(indices: list[int]) -> dict[str, Any]:
        with timed() as t:
            score(indices)
        return t.taken

    return {"check": lambda indices: {"numbers": score(indices)}, "round": round}


def row_logps(model: Any, rows: Sequence[Ids]) -> list[torch.Tensor]:
    """Log-probabilities of every row's response tokens."""
    width = max(len(p) + len(r) for p, r in rows)
    ids, real = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for n, (prompt, response) in enumerate(rows):
        ids[n, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        real[n, : len(prompt) + len(response)] = 1
    hidden = model.model(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
    at = [(n, len(p) + t) for n, (p, r) in enumerate(rows) for t in range(len(r))]
    row, column = torch.tensor(at).T
    logits = model.lm_head(hidden[row, column - 1])
    logp = logits.log_softmax(-1).gather(-1, ids[row, column][:, None])[:, 0]
    return list(logp.split([len(r) for _, r in rows]))


def _batches(rows: Sequence[Ids]) -> Iterator[list[int]]:
    batch: list[int] = []
    for n in sorted(range(len(rows)), key=lambda n: len(rows[n][0]) + len(rows[n][1])):
        if batch and (len(batch) + 1) * (len(rows[n][0]) + len(rows[n][1])) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
