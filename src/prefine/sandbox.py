"""Running Python that nobody has read: in a process of its own, without network, secrets or time to spare.

    outcome = run_python("print(6 * 7)")
    outcome.ok, outcome.stdout          # True, "42\\n"

What surrounds the program is in ``prefine.jail``; ``outcome.layers`` says which of its layers this machine
could close. Where the kernel cannot keep the program from the network and from other people's files, it is
not run at all unless ``weak=True`` says that a fence is enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from prefine.errors import InputError, RunStopped

JAIL = Path(__file__).parent / "jail"
OUT_OF_MEMORY = 86
GRACE = 15.0
"""Seconds the jail has, over the program's time, to start and to clean up before it is ended itself."""


@dataclass(frozen=True)
class Bounds:
    """What a program may use. Sizes are bytes."""

    seconds: float = 5.0
    """By the clock, for everything it starts together."""
    cpu_seconds: int = 5
    """For each process."""
    memory: int = 512 << 20
    """Address space of each process."""
    processes: int = 1
    """Processes and threads at a time, the program itself included."""
    output: int = 64 << 10
    """What is kept of stdout, and of stderr; the rest is read and dropped."""
    disk: int = 16 << 20
    """All files together (counted where the "files" layer stands)."""
    file_count: int = 128
    """How many files and folders (counted where the "files" layer stands)."""
    file_size: int = 8 << 20
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended. ``ok``: by itself, in its bounds, with exit code 0."""

    ok: bool
    stdout: str
    stderr: str
    seconds: float
    killed_by: str | None
    """None, "time", "cpu", "memory", or the name of a signal."""
    code: int | None
    """The exit code; None when it was killed."""
    truncated: bool
    """Whether some of the output was dropped."""
    layers: tuple[str, ...]
    """The layers that stood around it (see ``prefine.jail``)."""


def run_python(
    source: str,
    *,
    bounds: Bounds = Bounds(),
    stdin: str = "",
    files: Mapping[str, str] | None = None,
    weak: bool = False,
    without: Sequence[str] = (),
) -> Outcome:
    """Run a Python program in the sandbox: the standard library, an empty environment, a directory that goes.

    ``files`` (relative path -> text) lie beside it. ``without`` leaves layers out, as a machine that lacks
    them would: it is there for tests.
    """
    _check(bounds, files or {})
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    job: dict[str, Any] = {
        **asdict(bounds),
        "python": python,
        "readable": _readable(python),
        "guard": (JAIL / "guard.py").read_text(),
        "sources": {**(files or {}), "program.py": source},
        "stdin": stdin,
        "weak": weak,
        "without": list(without),
    }
    room = tempfile.mkdtemp(prefix="prefine-")
    try:
        return _outcome(*_run(python, job, room), bounds)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(python: str, job: dict[str, Any], room: str) -> tuple[list[bytes], bool, dict[str, Any]]:
    """((stdout, stderr), whether some was dropped, the jail's report)."""
    reader, writer = os.pipe()
    job["report"] = writer
    process = subprocess.Popen(
        [python, "-I", "-S", "-B", "-X", "utf8", str(JAIL)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(writer,),
        start_new_session=True,
        env={},
        cwd=room,
    )
    os.close(writer)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
        until = time.monotonic() + job["seconds"] + GRACE
        with open(reader, "rb", buffering=0) as report:
            caps = {process.stdout: job["output"], process.stderr: job["output"], report: 1 << 20}
            kept, dropped = _collect(caps, until)
    finally:
        _end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    said: dict[str, Any] = {}
    for line in kept[2].splitlines():
        said.update(json.loads(line))
    return kept[:2], dropped, said


def _end(process: subprocess.Popen[bytes]) -> None:
    """The jail has ended by now; where something went wrong here, let it clean up, but not for long."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _collect(caps: Mapping[IO[bytes], int], until: float) -> tuple[list[bytes], bool]:
    """Read the streams to their end, keeping no more of each than its cap."""
    kept = {stream: bytearray() for stream in caps}
    dropped = False
    with selectors.DefaultSelector() as selector:
        for stream in caps:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                stream = next(s for s in caps if s.fileno() == key.fd)
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(stream)
                    continue
                room = caps[stream] - len(kept[stream])
                kept[stream] += data[:room]
                dropped = dropped or len(data) > room
    return [bytes(text) for text in kept.values()], dropped


def _outcome(texts: Sequence[bytes], dropped: bool, said: Mapping[str, Any], bounds: Bounds) -> Outcome:
    stdout, stderr = (text.decode("utf-8", errors="replace") for text in texts)
    if "refused" in said:
        raise InputError(
            f"the sandbox cannot run this program: {said['refused']}",
            remedy="run on Linux 5.13 or newer (or in a container that allows user namespaces or Landlock); "
            "weak=True runs it behind a fence that determined code can climb",
        )
    if "late" not in said or ("ended" not in said and not said["late"]):
        raise RunStopped(
            f"the sandbox ended before its program did: {stderr.strip()[-300:] or 'no reason given'}",
            remedy="see whether this machine is out of memory or processes, and run again",
        )
    code = None if said["late"] else int(said["ended"])
    killed_by = _killed_by(code, said, bounds)
    return Outcome(
        ok=code == 0 and killed_by is None,
        stdout=stdout,
        stderr=stderr,
        seconds=float(said["seconds"]),
        killed_by=killed_by,
        code=code if code is not None and code >= 0 else None,
        truncated=dropped,
        layers=tuple(said.get("layers", ())),
    )


def _killed_by(code: int | None, said: Mapping[str, Any], bounds: Bounds) -> str | None:
    if code is None:
        return "time"
    if code == OUT_OF_MEMORY:
        return "memory"
    if code >= 0:
        return None
    if -code in (signal.SIGXCPU, signal.SIGKILL) and said["cpu"] >= bounds.cpu_seconds - 0.5:
        return "cpu"
    return signal.Signals(-code).name


@cache
def _readable(python: str) -> list[str]:
    """What a bare Python needs to start: itself, its library, and the system's shared libraries."""
    variables = [sysconfig.get_config_var(name) for name in ("LIBDIR", "DESTSHARED")]
    prefixes = [os.path.join(sys.base_prefix, "lib"), os.path.join(sys.base_prefix, "lib64")]
    own = [python, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *prefixes, *variables]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/nix/store", "/etc/ld.so.cache"]
    paths = {*(os.path.realpath(p) for p in own if p), *system}
    there = sorted(p for p in paths if os.path.exists(p))
    return [p for p in there if not any(p.startswith(other + "/") for other in there)]


def _check(bounds: Bounds, files: Mapping[str, str]) -> None:
    wrong = [name for name, value in asdict(bounds).items() if value <= 0]
    if wrong:
        raise InputError(f"the sandbox needs bounds above 0: {', '.join(wrong)}", remedy="leave them out")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or name == "program.py":
            raise InputError(f"{name!r} cannot lie beside the program", remedy="give relative paths without '..'")
