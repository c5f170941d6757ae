"""The inside of the sandbox: closes one layer after another around a program, runs it, and says how it ended.

Run as a script by ``prefine.sandbox`` (``python -I -S _jail.py '<job>'``), so it needs the standard library
alone. Three processes: this one (trusted; keeps the time, reports, cleans up), the init of a new PID
namespace (trusted; when it goes, the kernel ends everything in the namespace), and the program.

Every layer that can be closed is closed, and reported by name; what the kernel or the container refuses is
left out of the report and its neighbours still stand:

    network     an empty network namespace: there is no interface to connect through
    processes   a PID namespace: the program sees, and outlives, nothing outside of it
    files       a mount namespace with a new root: the Python library read-only, and a small working directory
    user        a user id that nobody else has (or an own user namespace)
    landlock    the kernel refuses paths outside of the library and the working directory, and TCP
    seccomp     the kernel refuses sockets, tracing, mounting, new namespaces (and new processes)
    limits      CPU time, memory, file size, open files, processes
    audit       Python refuses sockets and new processes; bypassable, so never counted on alone
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

CLONE = {"files": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "processes": 0x20000000, "network": 0x40000000}
CLONE_NEWUSER, CLONE_THREAD = 0x10000000, 0x00010000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def check(result: int, what: str) -> int:
    """The result of a C call, or the OSError it left behind."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)][:4]
    check(libc.prctl(option, *padded), f"prctl {option}")


# --- namespaces -------------------------------------------------------------------------------------------


def enter_namespaces() -> set[str]:
    """Leave the host's namespaces; as an ordinary user inside an own user namespace. Returns what was left."""
    user, group = os.getuid(), os.getgid()
    entered: set[str] = set()
    with contextlib.suppress(OSError):
        if user != 0:
            check(libc.unshare(CLONE_NEWUSER), "unshare user")
            entered.add("user")
            for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
                with open(f"/proc/self/{name}", "w") as handle:
                    handle.write(line)
    for name, flag in CLONE.items():
        with contextlib.suppress(OSError):
            check(libc.unshare(flag), f"unshare {name}")
            entered.add(name)
    return entered


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    arguments = [None if x is None else os.fsencode(x) for x in (source, target, kind)]
    result = libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data))
    check(result, f"mount {target}")


def build_root(work: str, readable: list[str], disk: int, files: int, owner: tuple[int, int]) -> str:
    """A new root with what Python needs, read-only, and the working directory as a small file system in memory.

    Made on top of ``work`` (which is empty on the host, and stays so); returns the new working directory.
    """
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", work, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in readable:
        target = work + path
        if os.path.islink(path):  # /lib -> usr/lib on merged systems
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        mount(path, target, None, MS_BIND | MS_REC)
        if path not in DEVICES:
            mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | _locked_flags(path))
    room = work + "/work"
    os.mkdir(room)
    options = f"size={disk},nr_inodes={files},mode=700,uid={owner[0]},gid={owner[1]}"
    mount("tmpfs", room, "tmpfs", MS_NOSUID | MS_NODEV, options)
    mount("none", work, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(work)
    if libc.syscall(PIVOT_ROOT, b".", b".") == 0:  # the old root lies under the new one: let it go
        check(libc.umount2(b".", MNT_DETACH), "umount")
    else:
        os.chroot(".")
    os.chdir("/work")
    return "/work"


def _locked_flags(path: str) -> int:
    """Mount flags that a user namespace may not take away must be given again when remounting."""
    now = os.statvfs(path).f_flag
    pairs = ((os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, 8), (os.ST_NOATIME, 1024), (os.ST_RELATIME, 1 << 21))
    return sum(flag for stat, flag in pairs if now & stat)


# --- user -------------------------------------------------------------------------------------------------


def pick_user() -> int:
    """A user id that nobody has, so that limits on processes count this program alone; 0: keep the own one."""
    return random.SystemRandom().randrange(1 << 30, (1 << 31) - 1) if os.getuid() == 0 else 0


def drop_user(user: int) -> None:
    """Become that user for good, without groups."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


# --- landlock ---------------------------------------------------------------------------------------------

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a directory
FILE_ONLY = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14
ACCESS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}


def restrict_paths(readable: list[str], room: str) -> None:
    """From here on the kernel refuses every path that is not under these, and (since 6.7) every TCP port."""
    abi = check(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1), "landlock")
    handled = ACCESS_BY_ABI[min(abi, 3)]
    network = 3 if abi >= 4 else 0
    scoped = 3 if abi >= 6 else 0  # abstract sockets and signals to processes outside
    attributes = struct.pack("<QQQ", handled, network, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = check(libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for path, access in [*((p, READ) for p in readable), *((d, READ | 2) for d in DEVICES), (room, handled)]:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = access & handled & (-1 if os.path.isdir(path) else FILE_ONLY)
            rule = struct.pack("<Qi", allowed, parent)
            check(libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), f"landlock {path}")
            os.close(parent)
    check(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


# --- seccomp ----------------------------------------------------------------------------------------------

MACHINE = os.uname().machine
COMMON = (425, 424, 428, 429, 430, 431, 432, 434, 438, 440, 442)
"""io_uring_setup, pidfd_send_signal, the new mount calls, pidfd_open, pidfd_getfd, process_madvise, ..."""
SYSCALLS: Mapping[str, Mapping[str, Any]] = {
    "x86_64": {
        "arch": 0xC000003E,
        "deny": (41, 101, 155, 161, 163, 165, 166, 167, 169, 170, 171, 172, 173, 175, 176, 179, 246, 248, 249, 250,
                 272, 298, 303, 304, 308, 310, 311, 313, 320, 321, 323, *COMMON),
        "fork": (57, 58), "clone": 56, "pivot_root": 155,
    },
    "aarch64": {
        "arch": 0xC00000B7,
        "deny": (198, 117, 41, 51, 89, 39, 40, 224, 225, 142, 161, 162, 105, 106, 60, 104, 217, 218, 219, 97, 241,
                 264, 265, 268, 270, 271, 273, 294, 280, 282, *COMMON),
        "fork": (), "clone": 220, "pivot_root": 41,
    },
}  # fmt: skip
"""Sockets, ptrace, pivot_root, chroot, acct, mounts, swap, reboot, host names, io ports, kernel modules, quota,
kexec, keys, unshare, perf, file handles, setns, reading other processes, bpf, userfaultfd."""
PIVOT_ROOT = SYSCALLS.get(MACHINE, {}).get("pivot_root", -1)
CLONE3 = 435
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000


def filter_program(table: Mapping[str, Any], alone: bool) -> bytes:
    """The filter as BPF: refuse the denied calls with EPERM, and new processes too where ``alone``."""
    code: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, 4),  # the architecture
        (JUMP_EQUAL, 1, 0, table["arch"]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # the number of the call
        (JUMP_AT_LEAST, 0, 1, 0x40000000),  # the x32 numbers
        (RETURN, 0, 0, REFUSE | errno.EPERM),
    ]
    for number in (*table["deny"], *(table["fork"] if alone else ())):
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    # The C library falls back to clone, whose flags can be read here.
    code += [(JUMP_EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    spaces = 0x7E020080  # new namespaces of any kind
    code += [
        (JUMP_EQUAL, 0, 5 if alone else 3, table["clone"]),
        (LOAD, 0, 0, 16),
        (JUMP_BITS, 0, 1, spaces),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
    ]
    if alone:
        code += [(JUMP_BITS, 1, 0, CLONE_THREAD), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in code)


def filter_calls(alone: bool) -> None:
    """From here on the kernel refuses the calls of the table, to this process and all it starts."""
    if MACHINE not in SYSCALLS:
        raise OSError(errno.ENOSYS, f"no table of system calls for {MACHINE}")
    program = filter_program(SYSCALLS[MACHINE], alone)
    kept = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(kept))
    pointer = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(pointer))


# --- the three processes ----------------------------------------------------------------------------------


def limit(job: Mapping[str, Any], spare_processes: int) -> None:
    """Resource limits; the hard CPU limit, which the program cannot survive, one second after the soft one."""
    cpu = max(1, -(-int(job["cpu_ms"]) // 1000))
    for what, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, job["memory"], job["memory"]),
        (resource.RLIMIT_FSIZE, job["file_size"], job["file_size"]),
        (resource.RLIMIT_NOFILE, job["open_files"], job["open_files"]),
        (resource.RLIMIT_NPROC, job["processes"] + spare_processes, job["processes"] + spare_processes),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        ceiling = resource.getrlimit(what)[1]
        allowed = [x if ceiling == resource.RLIM_INFINITY else min(x, ceiling) for x in (soft, hard)]
        resource.setrlimit(what, (allowed[0], allowed[1]))
