"""The other layers: namespaces, a root of its own, a user of its own, Landlock, resource limits.

Each function closes one layer or raises OSError where the kernel or the container refuses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Mapping, Sequence

from kernel import check, libc, syscall

NAMESPACES = {
    "files": 0x00020000,
    "hostname": 0x04000000,
    "ipc": 0x08000000,
    "processes": 0x20000000,
    "network": 0x40000000,
}
NEW_USER = 0x10000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, NOATIME = 1, 2, 4, 8, 32, 1024
BIND, RECURSIVE, PRIVATE, RELATIME, DETACH = 4096, 16384, 1 << 18, 1 << 21, 2
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def enter_own_user() -> None:
    """An own user namespace, in which an ordinary user may make the other namespaces."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(NEW_USER), "unshare user")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as handle:
            handle.write(line)


def enter_namespace(name: str) -> None:
    check(libc.unshare(NAMESPACES[name]), f"unshare {name}")


def enter_own_root(work: str, readable: Sequence[str], job: Mapping[str, int], owner: int, group: int) -> str:
    """A new root: what Python needs, read-only, and a small working directory in memory, which is returned.

    Built on ``work``, an empty directory on the host that stays empty there.
    """
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", work, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for path in (*readable, *DEVICES):
        _show(path, work + path)
    room = work + "/room"
    os.mkdir(room)
    size = f"size={job['disk']},nr_inodes={job['file_count'] + 2}"
    mount("tmpfs", room, "tmpfs", NOSUID | NODEV, f"{size},mode=700,uid={owner},gid={group}")
    mount("none", work, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    os.chdir(work)
    try:
        check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
        check(libc.umount2(b".", DETACH), "umount")  # the old root lies under the new one: let it go
    except (KeyError, OSError):  # the first root of a machine cannot be pivoted
        os.chroot(".")
    os.chdir("/room")
    return "/room"


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    names = [None if x is None else os.fsencode(x) for x in (source, target, kind)]
    check(libc.mount(*names, ctypes.c_ulong(flags), os.fsencode(data)), f"mount {target}")


def _show(path: str, target: str) -> None:
    """Make a path of the host visible at the target, read-only (devices excepted)."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):  # /lib -> usr/lib
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    mount(path, target, None, BIND | RECURSIVE)
    if path not in DEVICES:
        # Flags that the mount has already must be repeated: a user namespace may not take them away.
        now = os.statvfs(path).f_flag
        pairs = ((os.ST_NODEV, NODEV), (os.ST_NOEXEC, NOEXEC), (os.ST_NOATIME, NOATIME), (os.ST_RELATIME, RELATIME))
        kept = sum(flag for stat, flag in pairs if now & stat)
        mount("none", target, None, BIND | REMOUNT | RDONLY | NOSUID | kept)


def drop_user(user: int) -> None:
    """Become a user for good, without groups or capabilities."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def may_read(user: int, paths: Sequence[str]) -> bool:
    """Whether that user could open these paths (Python may live in somebody's home)."""
    os.seteuid(user)
    try:
        return all(os.access(path, os.R_OK, effective_ids=True) for path in paths)
    finally:
        os.seteuid(0)


LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIRECTORY, TRUNCATE = 1, 2, 4, 8, 1 << 14
FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
ACCESS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}


def restrict_paths(readable: Sequence[str], room: str) -> None:
    """Landlock: from here on the kernel refuses every path but these, and, where it can, TCP and signals out."""
    abi = check(libc.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_size_t(0), 1), "landlock")
    handled = ACCESS_OF_ABI[min(abi, 3)]
    wanted = struct.pack("<QQQ", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    attributes = wanted[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = syscall(LANDLOCK_CREATE, attributes, len(attributes), 0)
    look = EXECUTE | READ_FILE | READ_DIRECTORY
    allowed = [*((p, look) for p in readable), *((d, READ_FILE | WRITE_FILE) for d in DEVICES), (room, handled)]
    for path, access in allowed:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            where = os.open(path, os.O_PATH | os.O_CLOEXEC)
            mask = handled if os.path.isdir(path) else handled & FOR_FILES
            syscall(LANDLOCK_ADD, rules, 1, struct.pack("<Qi", access & mask, where), 0)
            os.close(where)
    syscall(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def limit_resources(job: Mapping[str, int], others: int) -> None:
    """Resource limits. The hard CPU limit, which no program survives, comes a second after the soft one.

    ``others``: processes that count against the same user already.
    """
    cpu = max(1, job["cpu_seconds"])
    limits = {
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (job["file_size"], job["file_size"]),
        resource.RLIMIT_NOFILE: (job["open_files"], job["open_files"]),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_AS: (job["memory"], job["memory"]),
        resource.RLIMIT_NPROC: (job["processes"] + others, job["processes"] + others),
    }
    for what, (soft, hard) in limits.items():
        ceiling = resource.getrlimit(what)[1]
        resource.setrlimit(what, (soft, hard) if ceiling < 0 else (min(soft, ceiling), min(hard, ceiling)))


def prove_process_limit() -> None:
    """See that the limit on processes holds for this user (for root, under any name, it does not)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        child = os.fork()
    except BlockingIOError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise OSError("the limit on processes does not hold")
