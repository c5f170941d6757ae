"""The two errors a user can meet: bad input (exit code 2) and a run that stopped but can go on (exit code 3)."""

from __future__ import annotations

from pathlib import Path


class PrefineError(Exception):
    """An expected failure: shown as one message with a remedy, never as a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class InputError(PrefineError):
    """Something the user gave cannot be used: data, config, model, world or command line."""

    exit_code = 2

    def __init__(
        self, message: str, *, remedy: str = "", file: str | Path | None = None, line: int | None = None
    ) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + message, remedy=remedy)
        self.file = file
        self.line = line


class RunStopped(PrefineError):
    """The run could not go on (disk full, out of memory, NaN, somebody else holds it); what is done is kept."""

    exit_code = 3

    event = "failed"
    """How a run's journal notes it."""


class LabelsWanted(RunStopped):
    """The run waits for people: nothing is wrong, and the same command goes on when they have answered."""

    event = "waiting"
