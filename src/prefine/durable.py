"""How long verbs survive a kill: work is done in parts, each part is written whole under its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefine.artifacts import Logps, Rows
from prefine.cluster import Cluster, Task
from prefine.slate import Contrast, Slate
from prefine.store import write_text


def in_parts(
    cluster: Cluster,
    task: Task[Sequence[Mapping[str, Any]]],
    rows: Rows[Slate],
    width: int,
    work: Path,
    target: Path,
    tell: Callable[[int, Sequence[Mapping[str, Any]]], None],
) -> None:
    """Work through rows in parts of ``width``, each written whole under a name that holds its checksum.

    Parts may be done in any order; the target has them in the order of the rows. ``tell`` hears how many rows
    are done, and of every part done now its lines.
    """
    parts = work / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    found: dict[int, Path] = {}
    for path in parts.glob("*.jsonl"):
        if _part_is_whole(path):
            found[int(path.name.split(".")[0])] = path
    firsts = range(0, len(rows), width)
    missing = [first for first in firsts if first not in found]
    done = len(rows) - sum(_width(first, width, rows) for first in missing)
    if done:
        tell(done, ())
    for first, lines in cluster.map(task, ((first, rows[first : first + width]) for first in missing)):
        text = b"".join(line(row) for row in lines)
        found[first] = parts / f"{first:09d}.{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
        write_text(found[first], text.decode())
        done += _width(first, width, rows)
        tell(done, lines)
    with target.open("wb") as out:
        for first in firsts:
            out.write(found[first].read_bytes())


def logps_in_parts(
    cluster: Cluster,
    task: Task[list[list[np.ndarray]]],
    contrasts: Rows[Contrast],
    width: int,
    parts: Path,
    tell: Callable[[int], None],
) -> list[Path]:
    """Log-probabilities in parts of ``width`` contrasts, each a folder put in place by one rename; in order."""
    folders = {first: parts / f"{first:09d}" for first in range(0, len(contrasts), width)}
    missing = [first for first, folder in folders.items() if not folder.exists()]
    done = len(contrasts) - sum(_width(first, width, contrasts) for first in missing)
    if done:
        tell(done)
    for first, logps in cluster.map(task, ((first, contrasts[first : first + width]) for first in missing)):
        half = parts / f"{first:09d}.partial"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        Logps.write(half, logps)
        half.rename(folders[first])
        done += _width(first, width, contrasts)
        tell(done)
    return list(folders.values())


def _width(first: int, width: int, rows: Rows[Any]) -> int:
    """Rows that the part at ``first`` has: all ``width``, but for the last part."""
    return min(width, len(rows) - first)


def _part_is_whole(path: Path) -> bool:
    return path.name.split(".")[1] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def join_logps(parts: Sequence[Path], out: Path) -> None:
    """Parts end to end, values streamed through a memory map."""
    loaded = [Logps("", part)._arrays for part in parts]
    total = sum(len(values) for values, _, _ in loaded)
    if total:
        target = np.lib.format.open_memmap(out / "values.npy", mode="w+", dtype=loaded[0][0].dtype, shape=(total,))
        at = 0
        for values, _, _ in loaded:
            target[at : at + len(values)] = values
            at += len(values)
        target.flush()
        del target
    else:
        np.save(out / "values.npy", np.zeros(0, np.float32), allow_pickle=False)
    for name, index in (("rows", 1), ("contrasts", 2)):
        ends = [np.zeros(1, np.int64)]
        for arrays in loaded:
            ends.append(arrays[index][1:] + ends[-1][-1])
        np.save(out / f"{name}.npy", np.concatenate(ends), allow_pickle=False)


def line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Slates or contrasts as lines; how many they were."""
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(line(row.to_json()))
            count += 1
    return count


def put_in_place(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """A directory as ``target`` (links where the disk allows, else copies), in place of what was there."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=link_or_copy, ignore=shutil.ignore_patterns(*without))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def tokens_drawn(candidates: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of candidates as they are written down (words where the tokens are not known)."""
    return sum(len(c.get("tokens") or c["text"].split()) for c in candidates)


def over_steps(rows: Sequence[Mapping[str, float]], name: str) -> int:
    """A number of every step added up over all, from the rows of metrics, which hold its means (so the same for a
    run that was interrupted)."""
    total, before = 0.0, 0.0
    for row in rows:
        total += row.get(name, 0.0) * (row["step"] - before)
        before = row["step"]
    return round(total)


def counted(rows: Iterable[Any], tell: Callable[[int], None]) -> Iterator[Any]:
    """The rows, and every now and then how many they were."""
    for i, row in enumerate(rows):
        yield row
        if i % 256 == 255:
            tell(i + 1)
