"""The cluster that ``torchrun`` made: every process goes through the same recipe, and takes its share of each verb.

The rows of a part are cut into as many stretches as there are processes; the first process puts the results
together and writes them. Training is one job of all (``engine.processes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefine.cluster import Job, Part, Task, Tell
from prefine.engine import processes
from prefine.errors import RunStopped

if TYPE_CHECKING:
    from prefine.engine.train import TrainResult

T = TypeVar("T")

NO_MORE = -1


class Followed(BaseException):
    """A process other than the first has done its part: what is left of the verb is the first one's."""


class Ranks:
    """See ``prefine.cluster.Cluster``. Results come back in the first process; the others leave by ``Followed``."""

    def open(self, folders: Sequence[Path], say: Callable[[str], None]) -> AbstractContextManager[Any]:
        return nullcontext()

    def map(self, task: Task[T], parts: Iterable[Part]) -> Iterator[tuple[int, T]]:
        """The task must give one result a row, in order."""
        for first, rows in parts:
            _agree(first)
            here = stretch(len(rows), processes.rank(), processes.size())
            mine: Any = task(rows[here.start : here.stop], first + here.start) if here else []
            done = processes.gathered(list(mine))
            if processes.rank() == 0:
                yield first, [result for one in done for result in one]  # type: ignore[misc]
        _agree(NO_MORE)
        if processes.rank() != 0:
            raise Followed

    def train(self, job: Job, tell: Tell) -> TrainResult:
        result = job(tell if processes.rank() == 0 else _silent)
        if processes.rank() != 0:
            raise Followed
        return result


def stretch(rows: int, rank: int, size: int) -> range:
    """The rows of one process: contiguous, and no two processes' numbers differ by more than one.

    >>> [list(stretch(5, rank, 3)) for rank in range(3)]
    [[0], [1, 2], [3, 4]]
    """
    return range(rank * rows // size, (rank + 1) * rows // size)


def _agree(first: int) -> None:
    """All processes are at the same part (what is done already, each has read from the disk)."""
    low, high = -processes.highest(-first), processes.highest(first)
    if low != high:
        raise RunStopped(
            "the processes do not find the same finished parts on the disk",
            remedy="put the run's directory on a file system that all machines share, and run again",
        )


def _silent(row: Mapping[str, float]) -> None:
    pass
