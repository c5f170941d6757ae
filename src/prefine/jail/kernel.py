"""What the jail asks of the C library."""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_CHILD_SUBREAPER, SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38


def check(result: int, what: str) -> int:
    """The result of a C call, or the OSError it left behind."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, first: int, second: int = 0) -> None:
    arguments = [ctypes.c_ulong(x) for x in (first, second, 0, 0)]
    check(libc.prctl(option, *arguments), f"prctl {option}")


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """A system call; numbers are passed as wide as a register."""
    wide = [ctypes.c_long(x) if isinstance(x, int) else x for x in arguments]
    return check(int(libc.syscall(ctypes.c_long(number), *wide)), f"system call {number}")
