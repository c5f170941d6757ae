"""Where a run's heavy work is done: in this process, or on many machines.

A run hands its work over as values that can be sent elsewhere (``cluster.work``) to its *cluster*, which knows
two things: to work through parts that do not depend on each other, and to train. What comes back are the same
bits wherever the parts were done; a cluster decides time and place, nothing else, and so is in no key.

    cluster = open_cluster("auto", workers=4)       # or "host:port", "ray://host:port", None: this process
    with Run("runs/mine", cluster=cluster) as run: ...

A kind of cluster is one file here and one line in ``KINDS``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prefine.errors import InputError

if TYPE_CHECKING:
    from prefine.engine.train import TrainResult

T = TypeVar("T")

Task = Callable[[list[Any], int], T]
"""(rows, place of the first row) -> what they give. Called any number of times, in any order, anywhere."""

Part = tuple[int, list[Any]]
"""(place of the first row, rows)."""

Tell = Callable[[Mapping[str, float]], None]
"""Takes a row of metrics as training goes on."""


class Job(Protocol):
    """Training as a value: called in every process that takes part, it leaves its result on disk."""

    def __call__(self, tell: Tell) -> TrainResult: ...


class Cluster(Protocol):
    """What a run asks of wherever its work is done."""

    def open(self, folders: Sequence[Path], say: Callable[[str], None]) -> AbstractContextManager[Any]:
        """Ready to work as long as the context lasts. ``folders``: what every worker must see."""
        ...

    def map(self, task: Task[T], parts: Iterable[Part]) -> Iterator[tuple[int, T]]:
        """(place, result) of every part, as they are done. What a task raises is raised here."""
        ...

    def train(self, job: Job, tell: Tell) -> TrainResult:
        """Do the job, in one process or in several together."""
        ...


KINDS: Mapping[str, str] = {
    "here": "prefine.cluster.local:here",
    "ray": "prefine.cluster.ray:ray_cluster",
}
"""kind -> module:factory. A factory takes (address, workers=, threads=, device=) and checks them without
starting anything."""

ADDRESS = re.compile(r"auto|(ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")


def open_cluster(
    address: str | None = None, *, workers: int | None = None, threads: int | None = None, device: str = "auto"
) -> Cluster:
    """The cluster at an address (None: this process), with everything checked that can be without it.

    ``workers``: how many processes work (default: what the cluster has room for). ``threads``: CPU threads of
    each. ``device``: auto (GPUs where there are any), cpu or cuda.
    """
    if address is not None and not ADDRESS.fullmatch(address):
        raise InputError(
            f"there is no cluster {address!r}",
            remedy="give auto (a Ray cluster that is running, else one on this machine), HOST:PORT or ray://HOST:PORT",
        )
    if address is None and workers is not None:
        raise InputError("workers without a cluster", remedy="give --cluster auto too, or leave out --workers")
    module, _, name = KINDS["here" if address is None else "ray"].partition(":")
    factory = getattr(importlib.import_module(module), name)
    made: Cluster = factory(address, workers=workers, threads=threads, device=device)
    return made
