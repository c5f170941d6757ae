"""The few words in which everything here talks to Ray, and what counts as a lost worker."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prefine.cluster.room import Shape
from prefine.cluster.worker import Setup
from prefine.errors import InputError

LOSSES = 3
"""How often in a row the same piece of work may lose its worker."""


class Lost(Exception):
    """Workers went away; what they did has to be done again."""


@dataclass(frozen=True)
class Site:
    """A cluster that we are connected to, as its users see it."""

    room: Callable[[], Shape]
    """Workers that fit into it now."""
    say: Callable[[str], None]
    scratch: str
    """A folder that every worker sees."""
    witnesses: tuple[str, ...]

    def setup(self, room: Shape) -> Setup:
        return Setup.here(room.threads, self.witnesses)


def need_ray() -> Any:
    """The ray library, or how to get it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process more, whose news nobody reads
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "a cluster needs the ray library, which is not installed", remedy="pip install 'prefine[ray]'"
        ) from error
    return ray


def ship(value: Any, name: str) -> Any:
    """Put a value where all workers can get it. ``name``: what to call it should that not be possible."""
    try:
        return need_ray().put(value)
    except (TypeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = next((line for line in lines if "pickle" in line), lines[0])
        raise InputError(
            f"{name} cannot be sent to the workers of the cluster: {said}",
            remedy="make judges and objectives of functions and frozen dataclasses that hold plain values and "
            "handles, not open files, locks or connections; or run without --cluster",
        ) from error


def result(ref: Any) -> Any:
    """What a call gave; ``Lost`` if its worker is gone; else what was raised there, as it was raised."""
    errors = need_ray().exceptions
    gone = (
        errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError,
        errors.ObjectLostError, errors.LocalRayletDiedError,
    )  # fmt: skip
    try:
        return need_ray().get(ref)
    except errors.RayTaskError as error:
        if isinstance(error.cause, gone):
            raise Lost(why(error.cause)) from error
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except gone as error:
        raise Lost(why(error)) from error


def kill(actor: Any) -> None:
    with suppress(Exception):  # gone already
        need_ray().kill(actor)


DEAD = re.compile(r"(?:dead|died|killed) because (.+?)(?: Some common causes| This may|$)", re.DOTALL)


def why(error: BaseException) -> str:
    """What Ray's long message on a loss comes to, in one line."""
    said = " ".join(str(error).split())
    found = DEAD.search(said)
    return (found.group(1) if found else said or type(error).__name__)[:300]
