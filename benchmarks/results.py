"""results.json: one entry a row, merged row by row, each with what is needed to believe it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare import ROOT, threads

RESULTS = ROOT / "benchmarks" / "results.json"
VERSION = 2

REQUIRED = ("title", "status", "date", "commit", "machine", "load_before", "took_seconds")
"""What every row has, also one that failed (which has a ``reason`` besides)."""


def read(path: Path = RESULTS) -> dict[str, Any]:
    """What was measured so far; nothing if there is no file, or one of an older form."""
    if not path.exists():
        return {"version": VERSION, "rows": {}}
    found = json.loads(path.read_text())
    return found if found.get("version") == VERSION else {"version": VERSION, "rows": {}}


def merge(name: str, row: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Put one row in its place and leave the others as they are."""
    missing = [part for part in REQUIRED if part not in row]
    if missing or (row["status"] == "failed" and "reason" not in row):
        raise ValueError(f"row {name!r} lacks {missing or ['reason']}")
    results = read(path)
    results["rows"][name] = dict(row)
    half = path.with_suffix(".partial")
    half.write_text(json.dumps(results, indent=1) + "\n")
    half.rename(path)


def stamp() -> dict[str, Any]:
    """When, what and where: taken before a row starts."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": commit(),
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def machine() -> dict[str, Any]:
    import torch
    import transformers

    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor() -> str:
    """The processor's name and widest vectors, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in reversed(lines) if ":" in line]))
    flags = facts.get("flags", "").split()
    widest = next((v for v in ("avx512f", "avx2", "avx") if v in flags), "")
    return " ".join(x for x in (facts.get("model name", platform.machine()), widest) if x)


def commit() -> str:
    """The commit, with a plus where the working tree differs from it."""
    try:
        options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "cwd": ROOT}
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--", "src", "benchmarks/*.py"], **options).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed.strip() else "")


def target(what: str, value: float, wanted: float, *, at_most: bool = False) -> dict[str, Any]:
    """A figure against what was asked of it.

    >>> target("times TRL", 6.5, 6.0)["met"], target("share of memory", 0.3, 0.25, at_most=True)["met"]
    (True, False)
    """
    met = value <= wanted if at_most else value >= wanted
    return {"what": what, "value": float(f"{value:.4g}"), "wanted": wanted, "at_most": at_most, "met": bool(met)}
