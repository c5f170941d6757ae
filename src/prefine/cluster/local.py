"""The cluster that is this process: parts one after the other, training in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefine.cluster import Job, Part, Task, Tell

if TYPE_CHECKING:
    from prefine.engine.train import TrainResult

T = TypeVar("T")


class Here:
    """See ``prefine.cluster.Cluster``.

    >>> sorted(Here().map(lambda rows, first: sum(rows), [(0, [1, 2]), (2, [3])]))
    [(0, 3), (2, 3)]
    """

    def open(self, folders: Sequence[Path], say: Callable[[str], None]) -> AbstractContextManager[Any]:
        return nullcontext()

    def map(self, task: Task[T], parts: Iterable[Part]) -> Iterator[tuple[int, T]]:
        for first, rows in parts:
            yield first, task(rows, first)

    def train(self, job: Job, tell: Tell) -> TrainResult:
        return job(tell)


def here(address: str | None = None, **asked: Any) -> Here:
    """The factory (``prefine.cluster.KINDS``): nothing to choose."""
    return Here()
