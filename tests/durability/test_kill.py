"""A run killed with SIGKILL at any moment and started again ends in the same bits as one that was never killed.

Processes come from a fork server that has torch and prefine loaded, so that forty kills take a minute. Each kill
is aimed at a verb: the harness reads the journal, waits for that verb to begin, lets a random time go by, kills.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from prefine.store import read_jsonl

sys.path.insert(0, str(Path(__file__).parent))
import victim

AIMS = [verb for verb in ("sample", "judge", "curate", "logps", "train", "merge") for _ in range(5)] + ["any"] * 14
LOGS = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["victim"])
    return server


def contents(root: Path) -> dict[str, str]:
    """SHA-256 of every file that a run leaves: artifacts, logs and the final model."""
    store = root / ".store" / "objects"
    files = [*store.rglob("*"), *(root / "victim" / log for log in LOGS), *(root / "victim" / "policy").rglob("*")]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def started(root: Path) -> list[str]:
    return [row["verb"] for row in read_jsonl(root / "victim" / "journal.jsonl") if row["event"] == "start"]


def kill_once(
    context: multiprocessing.context.ForkServerContext, root: Path, aim: str, rng: random.Random
) -> str | None:
    """Start the run, kill it in the verb aimed at (or anywhere). The verb it died in, or None if it finished."""
    process = context.Process(target=victim.main, args=(str(root),))
    before = len(started(root))
    process.start()
    deadline = time.monotonic() + (rng.uniform(0.05, 1.5) if aim == "any" else 60)
    while process.is_alive() and time.monotonic() < deadline:
        if aim != "any" and aim in started(root)[before:]:
            time.sleep(rng.choice([0.0, rng.uniform(0, 0.02), rng.uniform(0, 0.3)]))
            break
        time.sleep(0.001)
    alive = process.is_alive()
    process.kill()
    process.join()
    if not alive:
        assert process.exitcode == 0, "the run failed by itself"
        return None
    return (started(root) or ["start-up"])[-1]


def test_forty_kills_leave_the_same_bits(tmp_path: Path, context: multiprocessing.context.ForkServerContext) -> None:
    calm = tmp_path / "calm"
    calm.mkdir()
    victim.make_base(calm / "base")
    process = context.Process(target=victim.main, args=(str(calm),))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    want = contents(calm)
    assert any("safetensors" in name for name in want)

    rng = random.Random(2024)
    aims = AIMS[:]
    rng.shuffle(aims)
    died_in: Counter[str] = Counter()
    number = 0
    while aims:  # one run after another, each killed until it gets through
        number += 1
        root = tmp_path / f"killed-{number}"
        root.mkdir()
        victim.make_base(root / "base")
        while True:
            aim = aims.pop() if aims else None
            if aim is None:
                last = context.Process(target=victim.main, args=(str(root),))
                last.start()
                last.join(120)
                assert last.exitcode == 0
                break
            verb = kill_once(context, root, aim, rng)
            if verb is None:
                aims.append(aim)
                break
            died_in[verb] += 1
        assert contents(root) == want, f"run {number} differs after kills in {dict(died_in)}"
        assert number < 40
    assert sum(died_in.values()) >= 40, died_in
    assert set(victim.VERBS) <= set(died_in), died_in


def test_logs_hold_no_time(tmp_path: Path, context: multiprocessing.context.ForkServerContext) -> None:
    """What is compared bit by bit above must not hold clocks; the journal may."""
    (tmp_path / "one").mkdir()
    victim.make_base(tmp_path / "one" / "base")
    process = context.Process(target=victim.main, args=(str(tmp_path / "one"),))
    process.start()
    process.join(120)
    rows = [json.loads(line) for line in (tmp_path / "one" / "victim" / "metrics.jsonl").read_text().splitlines()]
    assert rows
    assert not any(key.startswith("time/") for row in rows for key in row)
