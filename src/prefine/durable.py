"""How long verbs survive a kill: work is done in parts, each part is written whole under its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefine.artifacts import Logps, Rows
from prefine.slate import Slate
from prefine.store import write_text


def in_parts(
    rows: Rows[Slate],
    width: int,
    chunk: Callable[[list[Slate], int], Iterable[dict[str, Any]]],
    work: Path,
    target: Path,
    tell: Callable[[int], None],
) -> None:
    """Work through rows in parts of ``width``, each written whole under a name that holds its checksum."""
    parts = work / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    names = []
    for first in range(0, len(rows), width):
        found = next((p for p in parts.glob(f"{first:09d}.*.jsonl") if _part_is_whole(p)), None)
        if found is None:
            text = b"".join(line(row) for row in chunk(rows[first : first + width], first))
            found = parts / f"{first:09d}.{hashlib.sha256(text).hexdigest()[:16]}.jsonl"
            write_text(found, text.decode())
        names.append(found)
        tell(min(first + width, len(rows)))
    with target.open("wb") as out:
        for part in names:
            out.write(part.read_bytes())


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


def link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
