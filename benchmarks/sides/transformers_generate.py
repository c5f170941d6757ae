"""transformers samples: ``generate`` on left-padded prompts sorted by length, n returned sequences a prompt.

``rows_at_once`` is its batch size (see ``rows/sample.py``). Runs in the peers' environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.sides.transformers_score import row_logps
from benchmarks.worker import timed


def open(settings: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(settings["threads"])
    prompts = [json.loads(line)["prompt"] for line in Path(settings["ids"]).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"])
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings["policy"], dtype=torch.float32, attn_implementation="sdpa"
    )
    model.eval()
    n, longest = settings["n"], settings["max_tokens"]
    together = max(1, settings["rows_at_once"] // n)

    @torch.inference_mode()
    def check(indices: list[int], tokens: list[list[int]]) -> dict[str, Any]:
        """What it finds the log-probability of the other side's samples to be."""
        logps = row_logps(model, [(prompts[i], drawn) for i, drawn in zip(indices, tokens, strict=True)])
        return {"numbers": [float(x.double().sum()) for x in logps]}

    def round(indices: list[int], seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        count = 0
        with timed() as t:
            order = sorted(indices, key=lambda i: len(prompts[i]))
            for first in range(0, len(order), together):
                count += generated([prompts[i] for i in order[first : first + together]])
        return {**t.taken, "tokens": count}

    def generated(batch: list[list[int]]) -> int:
        """How many tokens were sampled, end tokens included."""
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
        out = model.generate(
            ids,
            attention_mask=(torch.arange(width)[None] >= torch.tensor([width - len(p) for p in batch])[:, None]).long(),
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=longest, num_return_sequences=n,
            pad_token_id=pad, eos_token_id=end, use_cache=True,
        )[:, width:]  # fmt: skip
        ended = (out == end).int().cumsum(-1)
        return int(((ended == 0) | ((out == end) & (ended == 1))).sum())

    return {"check": check, "round": round}
