"""One side of a row in a process of its own: ``python -m benchmarks.worker MODULE`` speaks JSON lines.

The first line is the side's settings. Every further line names an operation; the answer is what it gave, with the
peak memory of this process so far. A process that stays lets runs alternate while both sides are warm.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Operation = Callable[..., dict[str, Any]]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log, not between the answers
    module = importlib.import_module(sys.argv[1])
    operations: dict[str, Operation] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "open" in asked:
                operations = {"forget_peak": forget_peak, **module.open(asked["open"])}
                answer: dict[str, Any] = {}
            else:
                answer = operations[asked["do"]](**asked["with"])
            answer = {**answer, "memory": memory()}
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def memory() -> dict[str, int]:
    """Bytes of this process: now, and at most so far (Linux; elsewhere only the latter)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "VmRSS"))}
        return {"now": kilobytes["VmRSS"] * 1024, "peak": kilobytes["VmHWM"] * 1024}
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": most if sys.platform == "darwin" else most * 1024}


def forget_peak() -> dict[str, Any]:
    """Count peak memory from here on, where the system lets a process say so."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return {}


class timed:
    """``with timed() as t: ...; t.taken`` is {"seconds", "cpu_seconds"} of the block."""

    def __enter__(self) -> timed:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


if __name__ == "__main__":
    main()
