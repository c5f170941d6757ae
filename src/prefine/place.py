"""Where a launcher (``torchrun``) put this process, and how several processes speak with one voice.

Nothing heavy is imported here unless there are several processes.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from prefine.errors import InputError

PATIENCE = 20.0
"""So many seconds a process that failed leaves the one that speaks to say why."""


@dataclass(frozen=True)
class Place:
    """The number of this process, how many there are, its number on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0


def place() -> Place:
    """What ``torchrun`` wrote into the environment."""
    rank, size, local = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not (rank.isdigit() and size.isdigit() and os.environ.get("MASTER_ADDR")):
        return Place()
    return Place(int(rank), int(size), int(local) if local.isdigit() else int(rank))


def hush() -> None:
    """Let only the first process speak: what the others print goes nowhere (with --debug it stays)."""
    if place().rank > 0 and not _debugging():
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def once(explain: Callable[[], int]) -> int:
    """Say why a run failed once, whichever processes failed and however many; every one ends with its own code.

    ``explain`` says it and gives the exit code. The first process to fail says it (the others may have failed of
    that), and those that follow wait a little for it, since the launcher ends all when one has ended.
    """
    here = place()
    if here.size == 1 or _debugging():
        return explain()
    with contextlib.redirect_stderr(sys.__stderr__), contextlib.redirect_stdout(sys.__stdout__):
        try:
            store = _notes()
            speaks = store.add("failed", 1) == 1
        except Exception:  # the launcher is gone, or the first process, which kept the notes
            return explain() if here.rank == 0 else _quietly(explain)
        if speaks:
            code = explain()
            if here.rank > 0 and code != InputError.exit_code:
                print(f"  (process {here.rank} of {here.size})", file=sys.stderr, flush=True)
            store.set("said", "1")
            return code
        with contextlib.suppress(Exception):
            store.wait(["said"], timedelta(seconds=PATIENCE))
        return _quietly(explain)


def _quietly(explain: Callable[[], int]) -> int:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return explain()


def _notes() -> Any:
    """A small table that all processes of this start share, kept by the launcher (or by the first process)."""
    import torch.distributed as dist

    by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    table = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not by_launcher and place().rank == 0,
        timeout=timedelta(seconds=PATIENCE),
        wait_for_workers=False,
        multi_tenant=True,
    )
    return dist.PrefixStore(f"prefine/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", table)


def _debugging() -> bool:
    return "--debug" in sys.argv or os.environ.get("PREFINE_DEBUG", "") not in ("", "0")
