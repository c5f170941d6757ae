"""Layer "seccomp": a filter in the kernel that refuses system calls, for this process and all it starts."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from kernel import SET_SECCOMP, prctl

CALLS: dict[str, tuple[int, int]] = {
    # network, and a way around it
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    # mounts, roots, namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # the machine
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    # corners of the kernel with a history
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
"""Name -> (number on x86_64, number on aarch64); -1: it does not exist there."""

SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
"""Refused where there is no PID namespace: the processes of the same user could be reached."""
TGKILL = (234, 131)
FORKS = {"fork": (57, -1), "vfork": (58, -1)}
CLONE, CLONE3 = (56, 220), (435, 435)
CLONE_THREAD, NEW_NAMESPACES = 0x00010000, 0x7E020000

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> (column of the tables, the kernel's name for it)."""

LOAD, EQUAL, AT_LEAST, BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
X32 = 0x40000000

Line = tuple[int, int, int, int]
"""(operation, lines to skip if true, lines to skip if not, operand)"""


def filter_lines(machine: str, *, alone: bool, signals: bool, pid: int) -> list[Line]:
    """The filter. ``alone``: no new processes (threads are not processes); ``signals``: only to itself."""
    column, architecture = ARCHITECTURES[machine]
    refuse: Line = (RETURN, 0, 0, REFUSE | errno.EPERM)
    lines: list[Line] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        refuse,
    ]
    denied = {**CALLS, **(FORKS if alone else {}), **(SIGNALS if signals else {})}
    for numbers in denied.values():
        if numbers[column] >= 0:
            lines += [(EQUAL, 0, 1, numbers[column]), refuse]
    # clone3 keeps its flags in memory, where a filter cannot look: without it the C library uses clone.
    lines += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    if signals:  # abort() sends one to the own process
        own: list[Line] = [(LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 1, 0, pid), refuse, (RETURN, 0, 0, ALLOW)]
        lines += [(EQUAL, 0, len(own), TGKILL[column]), *own]
    clone: list[Line] = [(LOAD, 0, 0, FIRST_ARGUMENT), (BITS, 0, 1, NEW_NAMESPACES), refuse]
    if alone:
        clone += [(BITS, 1, 0, CLONE_THREAD), refuse]
    lines += [(EQUAL, 0, len(clone), CLONE[column]), *clone, (RETURN, 0, 0, ALLOW)]
    return lines


def filter_calls(*, alone: bool, signals: bool) -> None:
    """Put the filter in place. Needs no privileges once ``no_new_privs`` is set; cannot be taken back."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    lines = filter_lines(machine, alone=alone, signals=signals, pid=os.getpid())
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
    prctl(SET_SECCOMP, 2, ctypes.addressof(program))
