"""What a run tells while it works: the protocols of live progress, and the one that keeps quiet."""

from __future__ import annotations

from typing import Protocol


class Stage(Protocol):
    """One line of live progress."""

    def update(self, done: float, **figures: float) -> None: ...
    def end(self, **figures: float) -> None: ...


class Progress(Protocol):
    """Where live progress goes (``report.progress``)."""

    def stage(self, label: str, total: float | None = None) -> Stage: ...
    def say(self, text: str) -> None: ...


class Quiet:
    """Says nothing."""

    def stage(self, label: str, total: float | None = None) -> Quiet:
        return self

    def update(self, done: float, **figures: float) -> None: ...
    def end(self, **figures: float) -> None: ...
    def say(self, text: str) -> None: ...
