"""Artifacts on disk: written once, whole or not at all, checked whenever they are taken up again.

    STORE/objects/<key>/            an artifact: its files and manifest.json (sizes and SHA-256 of each)
    STORE/damaged/<key>.<n>/        artifacts that failed their check, kept for a look
    RUN/work/<key>/                 what a verb has so far; it survives a kill and is picked up again
    RUN/LOCK                        held by the one process that works in this run directory

An artifact holds no time and no host, so the same run gives the same bytes, killed or not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefine.errors import RunStopped

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Store:
    """A folder of artifacts under content keys, shared by all runs beside it."""

    root: Path
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)
    _checked: dict[str, tuple[tuple[str, int, int, int], ...]] = field(default_factory=dict, compare=False)

    def path(self, key: str) -> Path:
        return self.root / "objects" / key

    def get(self, key: str) -> Path | None:
        """The artifact's folder if it is there and whole. A damaged one is put aside and None comes back."""
        path = self.path(key)
        if not path.is_dir():
            return None
        reason = self._damage(key, path)
        if reason is None:
            return path
        aside = self._put_aside(key, path)
        self.say(f"artifact {key[:12]} is damaged ({reason}); put aside as {aside} and made again")
        return None

    def manifest(self, key: str) -> Mapping[str, Any]:
        """What the artifact says of itself."""
        return json.loads((self.path(key) / MANIFEST).read_text())

    def used_by(self, run_dir: Path) -> None:
        """Note that a run takes artifacts from here, so that cleaning up after another run leaves them alone."""
        place = str(run_dir.resolve())
        note = self.root / "runs" / hashlib.sha256(place.encode()).hexdigest()[:16]
        if not note.exists():
            write_text(note, place + "\n")

    def users(self) -> list[Path]:
        """Run directories that take artifacts from here: those noted and those beside the store, but for those whose
        journal says that they have only ever used other stores."""
        noted = [Path(note.read_text().strip()) for note in sorted((self.root / "runs").glob("*")) if note.is_file()]
        near = [p.parent for deep in ("*/journal.jsonl", "*/*/journal.jsonl") for p in self.root.parent.glob(deep)]
        return [p for p in dict.fromkeys(q.resolve() for q in (*noted, *near)) if p.is_dir() and self._serves(p)]

    def _serves(self, run_dir: Path) -> bool:
        """Whether a run's journal names this store, or none; or one that is gone, where this may be it, moved here
        together with its runs."""
        rows = [row for row in read_jsonl(run_dir / "journal.jsonl") if isinstance(row, dict)]
        said = {Path(str(row["store"])).resolve() for row in rows if row.get("verb") == "run" and row.get("store")}
        here = self.root.resolve()
        return not said or any(at == here or (at.name == here.name and not at.exists()) for at in said)

    def commit(self, key: str, work: Path, **about: Any) -> Path:
        """Turn a finished work folder into the artifact of this key: checksums, flush, one rename."""
        files = {}
        for file in sorted(p for p in work.rglob("*") if p.is_file()):
            _flush(file)
            name = file.relative_to(work).as_posix()
            files[name] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        body = {"key": key, **about, "files": files}
        write_json(work / MANIFEST, {**body, "sha256": _digest(body)})
        _flush(work)
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(work, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            shutil.rmtree(work)  # another run made the same artifact meanwhile: same key, same bytes
        _flush(target.parent)
        return target

    def _damage(self, key: str, path: Path) -> str | None:
        """Why the artifact cannot be trusted, or None. A check is remembered while the files stay as they were."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            claimed = manifest.pop("sha256")
            if claimed != _digest(manifest) or manifest["key"] != key:
                return "its manifest does not match itself"
            now = tuple(
                (name, (s := (path / name).stat()).st_size, s.st_mtime_ns, s.st_ino) for name in manifest["files"]
            )
            if self._checked.get(key) == now:
                return None
            for name, want in manifest["files"].items():
                if (path / name).stat().st_size != want["bytes"]:
                    return f"{name} has {(path / name).stat().st_size} bytes instead of {want['bytes']}"
                if sha256_of(path / name) != want["sha256"]:
                    return f"{name} has other contents than were written"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        self._checked[key] = now
        return None

    def _put_aside(self, key: str, path: Path) -> Path:
        folder = self.root / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while (aside := folder / f"{key}.{number}").exists():
            number += 1
        os.rename(path, aside)
        return aside


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Keep every other process out of a run directory. The kernel lets go when this process dies."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "LOCK").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunStopped(
                f"{run_dir} is in use by {_holder(run_dir)}",
                remedy="wait for it to end, stop it, or choose another directory with --out",
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                    "command": " ".join(sys.argv),
                }
            )
        )
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.truncate()
            fcntl.flock(handle, fcntl.LOCK_UN)


def holder(run_dir: Path) -> str | None:
    """Who works in the run directory now, or None."""
    path = run_dir / "LOCK"
    if not path.exists():
        return None
    with path.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return _holder(run_dir)
        fcntl.flock(handle, fcntl.LOCK_UN)
        return None


def _holder(run_dir: Path) -> str:
    try:
        who = json.loads((run_dir / "LOCK").read_text())
        return f"process {who['pid']} on {who['host']} since {who['since']} ({who['command']})"
    except (ValueError, KeyError, OSError):
        return "another process"


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Turn a full disk or exhausted memory into a message; what is finished is kept, so the run can go on."""
    again = "run the same command again: it goes on where it stopped"
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunStopped(
            f"the disk is full ({error.filename or 'while writing'})", remedy=f"make room, then {again}"
        ) from error
    except MemoryError as error:
        raise RunStopped(
            "out of memory",
            remedy=f"lower tokens_per_microbatch or batch sizes, or free memory, then {again}",
        ) from error
    except RuntimeError as error:
        text = str(error)
        if "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise RunStopped(
            f"out of memory: {text.splitlines()[0][:200]}",
            remedy=f"lower tokens_per_microbatch or batch sizes, or free memory, then {again}",
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all: beside it first, flushed, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(beside, path)


def append_json(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line. A line cut by a kill is skipped by ``read_jsonl``."""
    with path.open("ab+") as handle:
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        if handle.tell() > 0:
            handle.seek(-1, os.SEEK_END)
            if handle.read(1) != b"\n":
                line = b"\n" + line
        handle.write(line)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a log file that may have been cut in the middle of a line."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def sha256_of(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
