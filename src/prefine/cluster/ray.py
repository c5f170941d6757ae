"""A Ray cluster: parts go to actors, training to Ray Train. Optional: ``pip install 'prefine[ray]'``.

The driver, the process of the run, hands out work and alone writes artifacts. A worker that is lost (its process,
its machine) costs what it was at: another does it again. What a task raises is the task's fault and ends the run
with the same error as in one process.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prefine.cluster import Job, Part, Task, Tell, training
from prefine.cluster.calls import Site, need_ray
from prefine.cluster.pool import Pool
from prefine.cluster.room import Shape, shape
from prefine.errors import InputError
from prefine.store import write_text

if TYPE_CHECKING:
    from prefine.engine.train import TrainResult

T = TypeVar("T")

OBJECTS = 256 * 2**20
"""Bytes of shared memory for a cluster of our own: parts are small, and models are read from disk."""

QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


class RayCluster:
    """See ``prefine.cluster.Cluster``. Workers of one map are kept for the next, with what they have loaded;
    training needs their place, so it sends them away."""

    def __init__(self, address: str, workers: int | None, threads: int | None, device: str) -> None:
        self.address, self.workers, self.threads, self.device = address, workers, threads, device
        self._pool: Pool | None = None

    @contextmanager
    def open(self, folders: Sequence[Path], say: Callable[[str], None]) -> Iterator[RayCluster]:
        """Connected, or with a cluster of this machine started, until the context ends."""
        with ExitStack() as stack:
            self._connect(stack, say)
            self._room()  # too little of it is said now
            witnesses = tuple(stack.enter_context(_witness(folder)) for folder in folders)
            scratch = Path(folders[0]).absolute() / "work" / "ray"
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            self._pool = Pool(Site(self._room, say, str(scratch), witnesses))
            stack.callback(self._close)
            yield self

    def map(self, task: Task[T], parts: Iterable[Part]) -> Iterator[tuple[int, T]]:
        return self._opened().map(task, parts)

    def train(self, job: Job, tell: Tell) -> TrainResult:
        pool = self._opened()
        pool.dismiss()
        return training.train(pool.site, job, tell)

    def _opened(self) -> Pool:
        if self._pool is None:
            raise InputError("the cluster is not open", remedy="use the run as a context: `with Run(...) as run:`")
        return self._pool

    def _close(self) -> None:
        self._opened().dismiss()
        self._pool = None

    def _room(self) -> Shape:
        alive = [node["Resources"] for node in need_ray().nodes() if node["Alive"]]
        machines = [(n.get("CPU", 0.0), n.get("GPU", 0.0)) for n in alive]
        return shape(machines, self.workers, self.threads, self.device)

    def _connect(self, stack: ExitStack, say: Callable[[str], None]) -> None:
        """To the cluster there is: this process's, the one at the address; with "auto" else to one of our own."""
        ray = need_ray()
        if ray.is_initialized():
            return
        try:
            ray.init(address=self.address, **QUIET)
        except (ConnectionError, RuntimeError, ValueError) as error:
            none_here = isinstance(error, ConnectionError) and not os.environ.get("RAY_ADDRESS")
            if self.address != "auto" or not none_here:
                raise _unreachable(os.environ.get("RAY_ADDRESS") or self.address, error) from error
            say("starting Ray on this machine")
            self._start(stack)
        stack.callback(ray.shutdown)

    def _start(self, stack: ExitStack) -> None:
        """A cluster of this machine alone, gone when we are."""
        folder = tempfile.mkdtemp(prefix="prefine-ray-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        need_ray().init(
            address="local",
            num_cpus=max(cores, (self.workers or 1) * (self.threads or 1)),
            include_dashboard=False,
            object_store_memory=OBJECTS,
            _temp_dir=folder,
            **QUIET,
        )


def ray_cluster(address: str, *, workers: int | None, threads: int | None, device: str) -> RayCluster:
    """The factory (``prefine.cluster.KINDS``)."""
    need_ray()
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"device {device!r} on a cluster", remedy="give auto, cpu or cuda: which GPU a worker gets is Ray's choice"
        )
    return RayCluster(address, workers, threads, device)


@contextmanager
def _witness(folder: Path) -> Iterator[str]:
    """A file by which a worker can tell that it sees this folder, and not another of the same name."""
    path = Path(folder).absolute() / "work" / f"witness-{uuid.uuid4().hex}"
    write_text(path, "written for the workers of a cluster; can be removed\n")
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody's work lies there
            path.parent.rmdir()


def _unreachable(address: str, error: Exception) -> InputError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return InputError(
        f"cannot connect to the Ray cluster at {address}: {said}",
        remedy="see that it runs (`ray status`), with the versions of Python and Ray that are here; "
        "or give --cluster auto",
    )
