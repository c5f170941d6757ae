"""Making room: what of a run can go from the disk, once its final policy and its report are there.

A run's policy, report and logs lie in its own directory; everything in the store only spares the work of making it
again. So all of a run's artifacts may go but the final policy's, and but those that another run in the same store uses.
A run beside it that took its artifacts from another store uses none of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefine.errors import InputError, RunStopped
from prefine.report.record import Record, Row, get, number, read_record
from prefine.store import Store, holder, lock, write_text

MARK = "cleaned"
"""In a run's directory: when it was cleaned. What it used before, it has let go."""


@dataclass(frozen=True)
class Piece:
    """One thing that can go: an artifact of the store, or the run's unfinished work."""

    path: Path
    verb: str
    label: str
    round: int | None
    size: int
    """Bytes that are freed: links to files that stay are not counted."""
    seconds: float
    """What it took to make."""


@dataclass(frozen=True)
class Cleaning:
    """What would go, and what stays."""

    run: Path
    pieces: tuple[Piece, ...]
    shared: int
    """Artifacts of this run that another run uses."""
    finished: bool

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    @property
    def again(self) -> str:
        """What running the same command again has to make."""
        counts = Counter(piece.verb for piece in self.pieces)
        seconds = sum(piece.seconds for piece in self.pieces)
        parts = ", ".join(f"{n} {verb}" for verb, n in counts.items())
        return f"{parts} (they took {seconds:.0f} s)" if parts else "nothing"


def look(run_dir: Path | str) -> Cleaning:
    """What could go from this run; nothing is touched."""
    record = read_record(run_dir)
    store = store_of(record)
    mine = _artifacts(record)
    others = [user for user in store.users() if user != record.path.resolve()]
    taken = {key for user in others for key in _keys(user)}
    final = _final(record)
    there = {key: event for key, event in mine.items() if store.path(key).is_dir() and key != final}
    pieces = [_piece(store.path(key), event) for key, event in there.items() if key not in taken]
    work = record.path / "work"
    if work.is_dir():
        pieces.append(Piece(work, "work", "unfinished work", None, _size(work), 0.0))
    return Cleaning(record.path, tuple(pieces), len(there.keys() & taken), record.state == "finished")


def clean(run_dir: Path | str) -> Cleaning:
    """Remove what ``look`` lists. A run that is going on, or has no policy yet, is left alone."""
    path = Path(run_dir)
    found = look(path)
    if (who := holder(path)) is not None:
        raise RunStopped(f"{path} is in use by {who}", remedy="wait for it to end, or stop it")
    if not found.finished:
        raise InputError(
            f"{path} has not come to its end, and what it made so far is what it would go on from",
            remedy="run its command again to the end, or remove the directory if you do not want it",
        )
    with lock(path):
        for piece in found.pieces:
            _remove(piece.path)
        write_text(path / MARK, f"{time.time()}\n")
    return found


def store_of(record: Record) -> Store:
    """The store a run took its artifacts from: as its journal says, else the one beside it."""
    said = [e.get("store") for e in record.journal if e.get("verb") == "run" and e.get("store")]
    return Store(
        Path(str(said[-1])) if said else Path(os.environ.get("PREFINE_STORE") or record.path.parent / ".store")
    )


def _artifacts(record: Record) -> Mapping[str, Row]:
    """Key -> the event that made it or found it."""
    found: dict[str, Row] = {}
    for event in record.verbs:
        if event.get("event") in ("done", "reused") and event.get("key"):
            key = str(event["key"])
            if event["event"] == "done" or key not in found:
                found[key] = event
    return found


def _keys(run_dir: Path) -> set[str]:
    """Everything a run came to be with, and what it is making; of a run that was cleaned, what it made since."""
    try:
        record = read_record(run_dir)
        since = float((run_dir / MARK).read_text())
    except InputError:
        return set()
    except (OSError, ValueError):
        since = 0.0
    keys = {str(e["key"]) for e in record.verbs if e.get("key") and (number(e.get("time")) or 0.0) >= since}
    return keys | ({record.final} if record.final else set())


def _final(record: Record) -> str | None:
    """The final policy; of runs before that was written down, the last that was made."""
    trained = [str(e["key"]) for e in record.verbs if e.get("verb") in ("train", "merge") and e.get("key")]
    return record.final or (trained[-1] if trained else None)


def _piece(path: Path, event: Row) -> Piece:
    place = event.get("round")
    return Piece(
        path, str(event.get("verb")), str(event.get("label") or ""), place if isinstance(place, int) else None,
        _size(path), get(event, "seconds") or 0.0,
    )  # fmt: skip


def _size(path: Path) -> int:
    """Bytes that removing frees."""
    stats = [p.lstat() for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(s.st_size for s in stats if s.st_nlink == 1)


def _remove(path: Path) -> None:
    """Out of the way by one rename, then gone: a kill leaves no half artifact under its name."""
    aside = path.with_name(f".{path.name}.going")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside)
