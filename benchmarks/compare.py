"""Sides in turn: each in a process of its own, checked against each other, then timed A B A B.

    with opened(sides) as workers:
        checks = agree(workers, ["loss"], limit=1e-4)
        measured = in_turn(workers, rounds)

A round is the arguments of the sides' "round" operation. The first is a warm-up that does not count.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stats import spread

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
"""Models, data and logs; ``make clean`` removes it."""

PATIENCE = 1800.0
"""Seconds that one operation may take."""


class Failed(Exception):
    """A row that could not be measured, and why."""


@dataclass(frozen=True)
class Side:
    """One contestant: what it is called, the module that does the work, and what it is told."""

    name: str
    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False
    """Runs in the peers' environment."""


def python(peer: bool) -> Path:
    """The interpreter of an environment: ours is this one, the peers' is made by ``make bench``."""
    if not peer:
        return Path(sys.executable)
    here = Path(os.environ.get("BENCH_PEER_PYTHON", ROOT / ".venv-peer" / "bin" / "python"))
    if not here.exists():
        raise Failed(f"the peers' environment is not there ({here}): make .venv-peer/.done")
    return here


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


class Worker:
    """A side's process."""

    def __init__(self, side: Side) -> None:
        self.side = side
        BUILD.mkdir(parents=True, exist_ok=True)
        self.log = BUILD / f"worker-{side.name.replace(' ', '-').replace('/', '-')}.log"
        environment = {
            **os.environ,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            "HF_HOME": str(BUILD / "hf"),
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python(side.peer)), "-m", "benchmarks.worker", f"benchmarks.sides.{side.module}"],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.peak = 0
        self._say({"open": {"threads": threads(), **side.settings}})

    def do(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer of one operation."""
        return self._say({"do": operation, "with": arguments})

    def forget_peak(self) -> None:
        """What came before, such as a check that holds another model, is not part of the peak."""
        self.do("forget_peak")
        self.peak = 0

    def _say(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        except BrokenPipeError:
            ready = [self.process.stdout]  # it is gone; the empty line below tells
        if not ready:
            raise Failed(f"{self.side.name} did not answer within {PATIENCE:.0f} s")
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"{self.side.name} ended (exit {self.process.wait()}): {self._last_words()}")
        told: dict[str, Any] = json.loads(answer)
        if "failed" in told:
            raise Failed(f"{self.side.name}: {told['failed']}")
        self.peak = max(self.peak, told["memory"]["peak"])
        return told

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def opened(sides: Sequence[Side]) -> Iterator[list[Worker]]:
    """A warm process for every side, gone afterwards."""
    with ExitStack() as stack:
        workers = []
        for side in sides:
            workers.append(Worker(side))
            stack.callback(workers[-1].close)
        yield workers


def agree(workers: Sequence[Worker], arguments: Mapping[str, Any], what: str, limit: float = 1e-4) -> dict[str, Any]:
    """All sides' "check" on the same input: equally long lists of numbers, or the row is off.

    The difference is relative to the larger number where that is above 1, else absolute.
    """
    return agreed({w.side.name: w.do("check", **arguments)["numbers"] for w in workers}, what, limit)


def agreed(told: Mapping[str, Sequence[float]], what: str, limit: float = 1e-4) -> dict[str, Any]:
    """The sides' numbers, by name, found alike within the limit."""
    sides, numbers = list(told), list(told.values())
    off = max((difference(numbers[0], other) for other in numbers[1:]), default=0.0)
    if not off <= limit:
        said = "; ".join(f"{s}: {n[:3]}" for s, n in zip(sides, numbers, strict=True))
        raise Failed(f"the sides do not compute the same {what}: off by {off:.2e} ({said})")
    return {"what": what, "difference": float(f"{off:.3g}"), "limit": limit, "sides": sides, "value": numbers[0][0]}


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest difference of two lists of numbers; infinite if they do not match.

    >>> difference([100.0, 0.5], [101.0, 0.501]) < 0.0101
    True
    """
    if len(a) != len(b) or not a:
        return float("inf")
    return max(abs(x - y) / max(1.0, abs(x), abs(y)) for x, y in zip(a, b, strict=True))


@dataclass
class Measured:
    """What a side's rounds gave, and its process's peak memory."""

    rounds: list[dict[str, Any]]
    peak: int

    def values(self, name: str) -> list[float]:
        return [float(r[name]) for r in self.rounds]


def in_turn(workers: Sequence[Worker], rounds: Sequence[Mapping[str, Any]], *, warmup: bool = True) -> list[Measured]:
    """Every round on one side after the other: A B A B."""
    done: list[list[dict[str, Any]]] = [[] for _ in workers]
    for worker in workers:
        worker.forget_peak()
    for i, arguments in enumerate(rounds):
        is_warmup = warmup and i == 0
        for worker, results in zip(workers, done, strict=True):
            started = time.perf_counter()
            answer = worker.do("round", **arguments)
            if not is_warmup:
                results.append({k: v for k, v in answer.items() if k != "memory"})
            name = "warm-up" if is_warmup else f"{i + 1 - warmup}/{len(rounds) - warmup}"
            whole = time.perf_counter() - started
            print(f"    {worker.side.name:<28} {name:>8} {answer['seconds']:8.2f} s  ({whole:.1f} s)", flush=True)
    return [Measured(results, worker.peak) for results, worker in zip(done, workers, strict=True)]


def told(measured: Measured, work: Sequence[float] = (), unit: str = "tokens") -> dict[str, Any]:
    """A side as results.json has it: seconds, work a second (``work[i]`` units in round i) and peak memory."""
    seconds = measured.values("seconds")
    found: dict[str, Any] = {"seconds": spread(seconds), "cpu_seconds": spread(measured.values("cpu_seconds"))}
    if work:
        found[f"{unit}_per_second"] = spread([w / s for w, s in zip(work, seconds, strict=True)])
    return {**found, "peak_bytes": measured.peak}
