"""Close one layer after another around a program, run it, and say how it ended.

Three processes: the keeper (this one: it keeps the time, reports, cleans up), the init of a new PID namespace
(when it goes, the kernel ends everything in the namespace), and the program. The first two are trusted and
never run what was given.

The job comes as JSON on stdin; the report goes, one JSON object a line, to the descriptor named in the job:
``layers`` before the program starts, ``refused`` if it must not start, ``ended`` and ``late`` after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from kernel import SET_CHILD_SUBREAPER, SET_DUMPABLE, SET_NO_NEW_PRIVS, SET_PDEATHSIG, prctl
from layers import (
    NAMESPACES,
    drop_user,
    enter_namespace,
    enter_own_root,
    enter_own_user,
    limit_resources,
    may_read,
    prove_process_limit,
    restrict_paths,
)
from seccomp import filter_calls

NEEDED = {"network": {"network", "seccomp"}, "files": {"files", "landlock"}}
"""What the kernel must close, by at least one of these layers, before a program starts (``weak`` waives it)."""


class Jail:
    """The layers closed so far, and what the three processes share."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.layers: list[str] = []
        self.room = os.getcwd()
        self.user = int.from_bytes(os.urandom(4), "big") % (1 << 30) + (1 << 30)
        """An id nobody has: what is counted and may be signalled by user is this program alone."""
        self.proc = _open_proc()
        self.stopped = False
        os.set_inheritable(job["report"], False)

    def close(self, layer: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Close a layer. Where the kernel or the container refuses, its name is missing from the report."""
        if layer in self.job["without"]:
            return None
        with contextlib.suppress(OSError, AttributeError, ValueError):
            result = function(*arguments, **named)
            self.layers.append(layer)
            return result
        return None

    def stop(self, *_: object) -> None:
        """End the program now (SIGTERM)."""
        self.stopped = True

    def say(self, **line: Any) -> None:
        os.write(self.job["report"], json.dumps(line).encode() + b"\n")

    def refuse(self, why: str) -> NoReturn:
        self.say(refused=why)
        os._exit(1)


def keeper(job: dict[str, Any]) -> None:
    """Leave the host's namespaces, start init, wait no longer than allowed, and leave nothing behind."""
    jail = Jail(job)
    # Whoever asked for the program may be killed: the kernel then says so here, and all is cleaned up.
    signal.signal(signal.SIGTERM, jail.stop)
    for option, value in ((SET_PDEATHSIG, signal.SIGTERM), (SET_CHILD_SUBREAPER, 1)):
        with contextlib.suppress(OSError, AttributeError):
            prctl(option, value)
    _give_input(job["stdin"])
    root = os.getuid() == 0
    if not root:
        jail.close("own user namespace", enter_own_user)
    for name in NAMESPACES:
        if name != "files":  # entered together with the new root
            jail.close(name, enter_namespace, name)
    owner, group = (jail.user, jail.user) if root else (os.getuid(), os.getgid())
    room = jail.close("files", _own_root, jail, owner, group)
    if room is None and root:
        os.chown(jail.room, owner, group)
    jail.room = room or jail.room
    started = time.monotonic()
    first = os.fork()
    if first == 0:
        _guarded(jail, init)
    late = not _wait(jail, first, started + job["seconds"])
    if late:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(first, signal.SIGKILL)
    _end_orphans(jail.proc)
    if jail.stopped:
        shutil.rmtree(jail.room, ignore_errors=True)  # whoever made the directory is not there to remove it
    jail.say(seconds=time.monotonic() - started, late=late)


def init(jail: Jail) -> None:
    """Start the program, adopt what it leaves behind, and go when it is done: that ends all the rest."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    for option, value in ((SET_PDEATHSIG, signal.SIGKILL), (SET_DUMPABLE, 0)):
        with contextlib.suppress(OSError, AttributeError):
            prctl(option, value)
    program = os.fork()
    if program == 0:
        _guarded(jail, start)
    ended = 0
    while ended != program:
        ended, status, usage = os.wait4(-1, 0)
    jail.say(ended=os.waitstatus_to_exitcode(status), cpu=usage.ru_utime + usage.ru_stime)
    os._exit(0)


def start(jail: Jail) -> None:
    """Close the layers that belong to the program's own process, and become the program."""
    job = jail.job
    os.chdir(jail.room)
    with contextlib.suppress(OSError, AttributeError):
        prctl(SET_NO_NEW_PRIVS, 1)
    jail.close("landlock", restrict_paths, job["readable"], jail.room)
    if os.getuid() == 0 and may_read(jail.user, [job["python"], os.__file__]):
        jail.close("user", drop_user, jail.user)
    for name, text in job["sources"].items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as handle:
            handle.write(text)
    alone = job["processes"] == 1
    jail.close("limits", limit_resources, job, _others(jail))
    jail.close("process count", prove_process_limit)
    jail.close("seccomp", filter_calls, alone=alone, signals="processes" not in jail.layers)
    jail.say(layers=[*jail.layers, "audit"])
    needed = {**NEEDED, "processes": {"process count", *(["seccomp"] if alone else [])}}
    open_sides = [side for side, layers in needed.items() if not layers & set(jail.layers)]
    if open_sides and not job["weak"]:
        jail.refuse(f"no kernel layer closes: {', '.join(open_sides)}")
    flags = ["-I", "-S", "-B", "-X", "utf8", "-c", job["guard"], "alone" if alone else "with others"]
    os.execve(job["python"], [job["python"], *flags], {})


def _own_root(jail: Jail, owner: int, group: int) -> str:
    enter_namespace("files")
    return enter_own_root(jail.room, jail.job["readable"], jail.job, owner, group)


def _others(jail: Jail) -> int:
    """How many processes count against the program's user before it starts."""
    if "user" in jail.layers:
        return 0
    if "own user namespace" in jail.layers:
        return 2  # the keeper and init
    return _threads_of(os.getuid(), jail.proc) if jail.proc >= 0 else 0


def _threads_of(user: int, proc: int) -> int:
    count = 0
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=proc).st_uid == user:
                count += len(os.listdir(os.open(f"{name}/task", os.O_RDONLY, dir_fd=proc)))
    return count


def _guarded(jail: Jail, part: Callable[[Jail], None]) -> NoReturn:
    """Run the part of a forked process; it never returns into its parent's code."""
    try:
        part(jail)
    except BaseException as error:
        jail.say(refused=f"{type(error).__name__}: {error}")
    os._exit(1)


def _give_input(text: str) -> None:
    """Make a text, or nothing, the standard input: a file without a name, in the directory that is still outside."""
    source = os.open(".stdin", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(".stdin")
    with open(source, "wb", closefd=False) as handle:
        handle.write(text.encode(errors="surrogatepass"))
    os.lseek(source, 0, os.SEEK_SET)
    os.dup2(source, 0)


def _wait(jail: Jail, process: int, until: float) -> bool:
    """Whether the process ended in time."""
    pause = 0.001
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if jail.stopped or time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return True


def _end_orphans(proc: int, patience: float = 5.0) -> None:
    """End every process that was started below this one: they come here when their parents end."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for child in _children(proc):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _children(proc: int) -> list[int]:
    if proc < 0:
        return []
    found = []
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc)) as handle:
                parent = int(handle.read().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.append(int(name))
    return found


def _open_proc() -> int:
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return -1


if __name__ == "__main__":
    keeper(json.load(sys.stdin))
