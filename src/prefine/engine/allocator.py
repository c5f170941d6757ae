"""Memory that a step frees is kept for the next one.

Every training step asks for the same few hundred megabytes again. glibc gives large blocks back to the system as
soon as they are free, and each page of the next step's has to be made and zeroed by the kernel, which costs a CPU
some 5 to 10% of a step (more in sandboxes, where a page fault is dear). Kept memory costs nothing but that it
stays with the process.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc takes no larger one


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Tell glibc's malloc so, once a process; False where there is no glibc (its allocator then does as it does)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
