"""Memory against the size of the data: 10^3 to 10^6 pairs read, stored and trained on, a process for each size.

The whole way of ``prefine run --data``: reading, checking, slates, pairs, training a tiny model for a few steps,
also with a reference's log-probabilities on disk. Peak resident memory must not grow with the rows.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.compare import BUILD, Side, opened
from benchmarks.data import Texts
from benchmarks.results import target
from benchmarks.rows import Asked

SIZES = (10**3, 10**4, 10**5, 10**6)
STEPS = 4
WORDS = tuple("the a of to and in is it you that for on with as are this be at have from or one had by".split())  # noqa: SIM905
LENGTH = 9
"""Tokens of every response: eight words of one token each, and the end. (The trainer refuses other lengths.)"""

ALLOWED = 100e6


def memory(asked: Asked) -> dict[str, Any]:
    sizes = SIZES[:2] if asked.smoke else SIZES
    text = "".join(f" {word}" for word in WORDS)  # every word with the space before it is one token
    texts = Texts(((text, (text, text), (1.0, 0.0)),) * 8, "made-up", True, "words")
    policy = models.directory(models.TINY, texts)
    points = []
    for size in sizes:
        work = BUILD / "memory"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        file = work / "pairs.jsonl"
        write(file, size, asked.seed)
        logps = work / "logps"
        write_logps(logps, size)
        settings = {
            "policy": str(policy), "data": str(file), "logps": str(logps), "work": str(work), "steps": STEPS,
        }  # fmt: skip
        with opened([Side(f"prefine {size}", "prefine_memory", settings)]) as (worker,):
            told = worker.do("round")
        points.append({"at": size, "file_bytes": file.stat().st_size, "peak_bytes": worker.peak, **told})
        seconds = {name: round(p["seconds"], 1) for name, p in told["phases"].items()}
        print(f"    {size:>9,} rows: peak {worker.peak / 1e6:.0f} MB, {told['seconds']:.1f} s {seconds}", flush=True)
        shutil.rmtree(work, ignore_errors=True)
    what = f"growth of peak memory from {sizes[0]:,} to {sizes[-1]:,} rows, MB"
    grown = points[-1]["peak_bytes"] - points[0]["peak_bytes"]
    return {
        "data": {"source": "pairs of made-up words, 8 a response", "generated": True},
        "settings": {"model": models.TINY.told(), "steps": STEPS, "batch": 8},
        "seeds": [asked.seed],
        "checks": [],
        "series": {"label": "rows of the data file", "points": points},
        "figures": {"grown_bytes": grown, "rows_a_second": {str(p["at"]): p["at"] / p["seconds"] for p in points}},
        "targets": [target(what, grown / 1e6, ALLOWED / 1e6, at_most=True)],
    }


def write(file: Path, rows: int, seed: int) -> None:
    """Pairs of words that the tokenizer knows whole."""
    rng = random.Random(seed)
    with file.open("w") as out:
        for i in range(rows):
            prompt = " ".join(rng.choices(WORDS, k=8))
            chosen, rejected = (" " + " ".join(rng.choices(WORDS, k=8)) for _ in range(2))
            out.write(json.dumps({"prompt": f"{prompt} {i}", "chosen": chosen, "rejected": rejected}) + "\n")


def write_logps(folder: Path, pairs: int) -> None:
    """A reference's stored log-probabilities of as many pairs, made up. Written here, so that the pages of the file
    do not count as the side's."""
    folder.mkdir()
    np.save(folder / "values.npy", np.full(2 * pairs * LENGTH, -1.0, dtype=np.float32))
    np.save(folder / "rows.npy", np.arange(0, 2 * pairs * LENGTH + 1, LENGTH))
    np.save(folder / "contrasts.npy", np.arange(0, 2 * pairs + 1, 2))
