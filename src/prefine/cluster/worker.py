"""What happens in a Ray worker: it is made ready, works through parts, or takes part in training.

Nothing heavy is imported before ``Setup.apply`` has put the worker where the driver is: same folder, same
settings, same versions.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefine.errors import InputError
from prefine.secrets import looks_secret

SHIPPED = ("PREFINE_", "HF_", "TRANSFORMERS_", "TOKENIZERS_")
"""Environment variables with these beginnings are the same on every worker. Secrets are not sent."""

MATTER = ("prefine", "torch", "transformers")
"""Packages whose version can change what comes out."""

PATIENCE = 5.0
"""Seconds until a file that another machine has written must be seen."""


@dataclass(frozen=True)
class Setup:
    """What every worker must have in common with the driver."""

    folder: str
    path: tuple[str, ...]
    """Where Python looks for modules."""
    environment: Mapping[str, str]
    versions: Mapping[str, str]
    threads: int
    witnesses: tuple[str, ...] = ()
    """Files the driver wrote where workers must be able to read."""

    @staticmethod
    def here(threads: int, witnesses: tuple[str, ...] = ()) -> Setup:
        """As it is in this process."""
        sent = {n: v for n, v in os.environ.items() if n.startswith(SHIPPED) and not looks_secret(n, v)}
        return Setup(os.getcwd(), tuple(map(os.path.abspath, sys.path)), sent, _versions(), threads, witnesses)

    def apply(self) -> str:
        """Make this process like the driver, or say what it lacks. Gives the host's name."""
        host = socket.gethostname()
        os.environ.update(self.environment)
        sys.path += [folder for folder in self.path if folder not in sys.path]
        ours = _versions()
        for package, wanted in self.versions.items():
            if ours[package] != wanted:
                raise InputError(
                    f"the worker on {host} has {package} {ours[package] or 'not at all'}, this machine has {wanted}",
                    remedy=f"install {package}=={wanted} there: every machine of a cluster needs the same versions",
                )
        try:
            os.chdir(self.folder)
        except OSError:
            raise _unseen(self.folder, host) from None
        for witness in self.witnesses:
            if not _appears(Path(witness)):
                raise _unseen(str(Path(witness).parent.parent), host)

        import torch

        torch.set_num_threads(self.threads)
        return host


def _versions() -> dict[str, str]:
    found = {}
    for package in MATTER:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes to be seen: file systems on a network take a moment."""
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _unseen(folder: str, host: str) -> InputError:
    return InputError(
        f"the worker on {host} does not see {folder}",
        remedy="the run's directory and its store (PREFINE_STORE), your model and the folder you start in must lie "
        "on a file system that all machines of the cluster share, under the same path",
    )


@contextmanager
def _readable() -> Iterator[None]:
    """What cannot be unpacked here is most often a module that this machine lacks."""
    try:
        yield
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(
            f"the worker on {socket.gethostname()} cannot unpack its work: {said}",
            remedy="judges and objectives of your own must lie in a module that every machine of the cluster can "
            "import, or in the script itself",
        ) from error


class Worker:
    """An actor that works through parts. It holds one task, and the policies that the task has loaded."""

    def __init__(self) -> None:
        self.name = ""
        self.task: Any = None

    def ready(self, setup: Setup) -> str:
        """Made ready; the host's name."""
        return setup.apply()

    def do(self, name: str, held: list[Any], rows: list[Any], first: int) -> tuple[Any, list[str]]:
        """(what the task makes of the rows, warnings on the way). ``held``: where the task of that name lies."""
        import ray

        if name != self.name:
            with _readable():
                self.name, self.task = name, ray.get(held[0])
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            done = self.task(rows, first)
        quiet = FutureWarning | DeprecationWarning | PendingDeprecationWarning
        return done, list(dict.fromkeys(str(w.message) for w in noted if not issubclass(w.category, quiet)))


class Relay:
    """An actor between those who train and the driver: rows of metrics, what went wrong, the result.

    The first process waits for its answer with every row, so that training ends when the driver takes it away.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.failures: list[BaseException] = []
        self.result: Any = None

    def tell(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)

    def finish(self, result: Any) -> None:
        self.result = result

    def read(self) -> list[dict[str, float]]:
        """The rows since the last time."""
        rows, self.rows = self.rows, []
        return rows

    def outcome(self) -> tuple[Any, list[BaseException]]:
        return self.result, self.failures


def learn(setup: Setup, held: list[Any], relay: Any) -> None:
    """One process of a training: what Ray Train calls in every worker, with ``torch.distributed`` at hand."""
    import ray

    try:
        setup.apply()
        with _readable():
            job = ray.get(held[0])

        from ray.train.torch import get_device

        from prefine.engine import processes

        _choose(get_device())
        leads = processes.rank() == 0
        result = job(lambda row: ray.get(relay.tell.remote(dict(row))) if leads else None)
        if leads:
            ray.get(relay.finish.remote(result))
    except BaseException as error:
        ray.get(relay.fail.remote(_sendable(error)))
        raise


def _choose(device: Any) -> None:
    """A thread has a current GPU of its own, and training is in a thread that Ray started."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)


def _sendable(error: BaseException) -> BaseException:
    import ray

    try:
        ray.put(error)
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
