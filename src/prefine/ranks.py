"""A run under ``torchrun``: all processes go through one recipe together, and one of them speaks and writes.

    torchrun --nproc-per-node 2 -m prefine run dpo --model M --data D

The first process has the run's directory and its lock. The others keep their logs in a directory of their own
that goes away, and read every artifact from the store once the first has put it there. Verbs that are worth it
(``DIVIDED``) are done by all, each a share; the rest by the first while the others wait.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prefine.artifacts import PolicyHandle, Slates, slates_at
from prefine.cluster.ranks import Followed, Ranks
from prefine.engine import processes
from prefine.errors import RunStopped
from prefine.run import Run
from prefine.slate import Slate
from prefine.telling import Stage

DIVIDED = frozenset({"sample", "judge", "logps", "train"})
"""The verbs whose work goes through the cluster."""


class SharedRun(Run):
    """A run of several processes (each makes one, with the same arguments)."""

    def __init__(self, directory: Path | str, *, store: Path | str | None = None, **about: Any) -> None:
        self.shared = Path(directory)
        self.leads = processes.rank() == 0
        root = store or os.environ.get("PREFINE_STORE") or self.shared.parent / ".store"
        self.own = self.shared if self.leads else Path(tempfile.mkdtemp(prefix="prefine-process-"))
        quiet = about if self.leads else {**about, "progress": None}
        super().__init__(self.own, store=root, **{**quiet, "cluster": Ranks()})

    def __exit__(self, *about: Any) -> None:
        super().__exit__(*about)
        if not self.leads:
            shutil.rmtree(self.own, ignore_errors=True)

    def slates(self, slates: Iterable[Slate], label: str = "read") -> Slates:
        key = ""
        if self.leads:
            with processes.alone():
                key = super().slates(slates, label).key
        key = processes.first_text(key)
        return slates_at(key, self._seen(key))

    def finish(self, policy: PolicyHandle) -> Path:
        if self.leads:
            super().finish(policy)
        processes.barrier()
        return self.shared / "policy"

    def _make(self, verb: str, key: str, make: Callable[[Path, Path, Stage], dict[str, Any]], **about: Any) -> Path:
        """As it is for one process; the others do their share, wait, and find the artifact in the store."""
        is_there = processes.first(int(self.leads and self.store.get(key) is not None))
        together = verb in DIVIDED and not is_there
        path = self.store.path(key)
        if self.leads:
            with contextlib.nullcontext() if together else processes.alone():
                path = super()._make(verb, key, make, **about)
        elif together:
            with contextlib.suppress(Followed):
                make(self.shared / "work" / key, self.own / "nothing", self.progress.stage(verb))
        processes.barrier()
        if not self.leads:
            self._seen(key)
            with processes.alone():
                path = super()._make(verb, key, make, **about)
        return path

    def _seen(self, key: str) -> Path:
        path = self.store.path(key)
        if not path.exists():
            raise RunStopped(
                f"process {processes.rank()} does not see {path}, which the first process has written",
                remedy="put the run's directory and its .store on a file system that all machines share",
            )
        return path
