"""Work for the tests of clusters: in a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefine.artifacts import PolicyHandle
from prefine.errors import InputError
from prefine.slate import Feedback, Slate, scores


def once(folder: Path, name: str) -> bool:
    """True for the first who asks, in whatever process."""
    try:
        (folder / name).open("x").close()
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Mortal:
    """A policy whose first sampler is killed in the middle of its part."""

    handle: PolicyHandle
    folder: Path

    @property
    def key(self) -> str:
        return self.handle.key

    def load(self) -> Any:
        return _Sampler(self)


@dataclass(frozen=True)
class _Sampler:
    mortal: Mortal

    def sample(self, prompts: Sequence[Any], sampling: Any, seeds: Sequence[int]) -> Any:
        drawn = self.mortal.handle.load().sample(prompts, sampling, seeds)
        if once(self.mortal.folder, "killed"):
            die()
        return drawn


@dataclass(frozen=True)
class Deadly:
    """A judge that no process survives."""

    folder: Path

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        with (self.folder / "deaths").open("a") as file:
            file.write("x")
        die()
        return []


@dataclass(frozen=True)
class Refusing:
    """A judge that raises, and writes down how often it was asked."""

    folder: Path
    error: str

    def __call__(self, slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
        (self.folder / f"asked-{os.getpid()}-{time.monotonic_ns()}").touch()
        raise {
            "input": InputError("this judge reads French only", remedy="translate the responses"),
            "value": ValueError("no such sentence"),
        }[self.error]


@dataclass(frozen=True)
class Fatal:
    """An objective that kills the second process of a training, once, when there is a checkpoint below a folder."""

    objective: Any
    folder: str

    def __call__(self, scores: Any) -> Any:
        from prefine.engine import processes

        folder = Path(self.folder)
        if processes.rank() == 1 and any(folder.rglob("step-*/manifest.json")) and once(folder, "killed"):
            die()
        return self.objective(scores)


def by_length(slates: Sequence[Slate]) -> list[Mapping[str, Feedback]]:
    return [{"score": scores([float(len(c.text)) for c in slate.candidates])} for slate in slates]
