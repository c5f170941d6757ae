"""Freed memory stays with the process, so that the next step does not fault it in again."""

import subprocess
import sys

import pytest

CHILD = """
import resource
import numpy as np
from prefine.engine.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(2 << 20) for _ in range(8)]  # eight times 16 MB
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if {keep} else True
faults()
print(int(kept), faults())
"""


def second_time(keep: bool) -> tuple[int, int]:
    said = subprocess.run([sys.executable, "-c", CHILD.format(keep=keep)], capture_output=True, text=True, check=True)
    kept, faults = map(int, said.stdout.split())
    return kept, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_the_second_step_faults_no_memory_in() -> None:
    kept, faults = second_time(keep=True)
    if not kept:
        pytest.skip("this C library has no such setting")
    assert second_time(keep=False)[1] > 1000, "without it there is something to save"
    assert faults < 100
