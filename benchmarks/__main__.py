"""python -m benchmarks [ROW ...] [--pairs N] [--data FILE] [--slates FILE] [--seed S] [--list]

Measures the rows named (default: all that need no GPU) and puts each into benchmarks/results.json as it is done.
A row that fails is recorded with its reason, and the rest goes on. ``python -m benchmarks gpu`` needs CUDA.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.compare import BUILD
from benchmarks.rows import Asked, Row, gpu, table

SMOKE = BUILD / "smoke.json"


def main(arguments: Sequence[str] | None = None) -> int:
    rows = table()
    asked = _parser(rows).parse_args(arguments)
    if asked.list:
        for name, row in rows.items():
            print(f"{name:<32} {row.minutes:4.0f} min  {row.title}")
        return 0
    names = [n for given in asked.rows or ["cpu"] for n in _groups(rows).get(given, [given])]
    unknown = [n for n in names if n not in rows]
    if unknown:
        print(f"there is no row {unknown[0]!r}; there are: {', '.join([*_groups(rows), *rows])}", file=sys.stderr)
        return 2
    if any(rows[n].gpu for n in names) and (why := gpu.why_not()) is not None:
        print(f"{', '.join(n for n in names if rows[n].gpu)}: {why}", file=sys.stderr)
        return 2
    wanted = Asked(asked.pairs, {"pairs": asked.data, "slates": asked.slates}, asked.seed, asked.smoke)
    if asked.smoke:
        wanted, asked.out = replace(wanted, pairs=1), SMOKE
    failed = 0
    for i, name in enumerate(names):
        left = sum(_minutes(n, rows) for n in names[i:]) * (asked.pairs + 1) / 6
        print(f"[{i + 1}/{len(names)}] {name}: {rows[name].title}  (about {left:.0f} min left)", flush=True)
        found = measure(rows[name], wanted)
        results.merge(name, found, asked.out)
        failed += found["status"] == "failed"
        print("\n".join(f"    {line}" for line in summary(found)), flush=True)
    print(f"{asked.out}: {len(names) - failed} of {len(names)} rows measured")
    return 1 if failed else 0


def _groups(rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """What several rows are called together."""
    return {
        "cpu": [n for n, row in rows.items() if not row.gpu],
        "gpu": [n for n, row in rows.items() if row.gpu],
        "train": [n for n, row in rows.items() if n.startswith("train-")],
        "sample": [n for n in rows if n.startswith("sample-")],
        "limit": [n for n in rows if n.startswith("limit-")],
        "growth": [n for n in rows if n.startswith("growth-")],
    }


def measure(row: Row, asked: Asked) -> dict[str, Any]:
    """The row's entry of results.json, whatever happens."""
    stamp = results.stamp()
    started = time.monotonic()
    try:
        found = {"status": "done", **row.run(asked)}
    except Exception as error:  # a row must not take the others with it
        traceback.print_exc()
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    return {"title": row.title, **stamp, "took_seconds": round(time.monotonic() - started, 1), **found}


def summary(row: Mapping[str, Any]) -> list[str]:
    """What was found, in a few lines."""
    if row["status"] == "failed":
        return [f"FAILED: {row['reason']}"]
    lines = [f"{c['what']}: sides agree to {c['difference']:.1e}" for c in row.get("checks", ())]
    for name, side in row.get("sides", {}).items():
        speeds = [f"{s['median']:,.4g} {k.replace('_', ' ')}" for k, s in side.items() if k.endswith("per_second")]
        peak = f"peak {side['peak_bytes'] / 2**20:,.0f} MB" if "peak_bytes" in side else ""
        lines.append(f"{name:<28} {side['seconds']['median']:8.3f} s  {', '.join([*speeds, peak])}")
    for name, ratio in row.get("ratios", {}).items():
        lines.append(f"{name}: {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})")
    for t in row.get("targets", ()):
        sign = "at most" if t["at_most"] else "at least"
        lines.append(f"{'met   ' if t['met'] else 'MISSED'} {t['what']}: {t['value']:.3g} ({sign} {t['wanted']:.3g})")
    return lines


def _minutes(name: str, rows: Mapping[str, Row]) -> float:
    """What the row took last time, else what the table says."""
    before = results.read()["rows"].get(name, {})
    return before["took_seconds"] / 60 if before.get("status") == "done" else rows[name].minutes


def _parser(rows: Mapping[str, Row]) -> argparse.ArgumentParser:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=as_written)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows or groups: cpu (default), gpu, train, growth, ...")
    parser.add_argument("--pairs", type=int, default=5, help="rounds that count on each side (default 5)")
    parser.add_argument("--data", help="a JSONL file of pairs (prompt, chosen, rejected)")
    parser.add_argument("--slates", help="a JSONL file of scored slates (prompt, candidates)")
    parser.add_argument("--seed", type=int, default=0, help="decides which rows of the data a round gets")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="where to put what is found")
    parser.add_argument(
        "--smoke", action="store_true", help=f"see that it works: a tiny model, one round, into {SMOKE}"
    )
    parser.add_argument("--list", action="store_true", help="the rows and how long they take")
    return parser


if __name__ == "__main__":
    sys.exit(main())
