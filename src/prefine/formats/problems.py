"""What can be wrong with data: one table of kinds, and the record of one finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefine.errors import InputError

Severity = Literal["broken", "idle", "note"]
"""broken: the row cannot be read; idle: it reads well and teaches nothing; note: usable, worth a look."""


@dataclass(frozen=True)
class Kind:
    """One kind of finding: its heading and how bad it is."""

    title: str
    severity: Severity


KINDS: Mapping[str, Kind] = {
    "json": Kind("broken JSON", "broken"),
    "object": Kind("rows that are not objects", "broken"),
    "encoding": Kind("text that is not UTF-8", "broken"),
    "damaged": Kind("damaged file", "broken"),
    "too-long": Kind("lines too long to be rows", "broken"),
    "missing": Kind("missing columns", "broken"),
    "mixed": Kind("rows of another format", "broken"),
    "type": Kind("values of the wrong type", "broken"),
    "messages": Kind("conversations that do not fit", "broken"),
    "finite": Kind("numbers that are NaN or infinite", "broken"),
    "lengths": Kind("lists whose lengths differ", "broken"),
    "slate": Kind("slates that contradict themselves", "broken"),
    "empty-prompt": Kind("empty prompts", "idle"),
    "empty-response": Kind("empty responses", "idle"),
    "identical": Kind("pairs of identical responses", "idle"),
    "tie": Kind("feedback that does not tell responses apart", "idle"),
    "against": Kind("scores that contradict the preference", "note"),
    "repeats-prompt": Kind("responses that begin with the whole prompt", "note"),
    "other-context": Kind("pairs that differ before the last turn (only the last turn is scored)", "note"),
    "guessed-prompt": Kind("prompts cut at a guessed boundary", "note"),
    "duplicate-prompt": Kind("prompts that appear more than once", "note"),
    "duplicate-row": Kind("rows that appear more than once", "note"),
}
"""Every kind of finding `prefine data check` knows."""


class RowError(InputError):
    """A row that cannot be read. Whoever knows the file and the line turns it into a `Problem`."""

    def __init__(self, kind: str, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind


@dataclass(frozen=True)
class Problem:
    """One finding, with its place and its remedy."""

    kind: str
    message: str
    remedy: str
    file: str
    line: int | None

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def error(self, suffix: str = "", remedy: str | None = None) -> InputError:
        """The same as an error to raise."""
        return InputError(
            self.message + suffix,
            remedy=self.remedy if remedy is None else remedy,
            file=self.file,
            line=self.line,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "line": self.line,
            "message": self.message,
            "remedy": self.remedy,
        }


def shown(value: object, width: int = 40) -> str:
    """A value as it may appear in a message: quoted, without control characters, cut."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


NAMES: Mapping[type, str] = {
    type(None): "null",
    bool: "true/false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def type_name(value: object) -> str:
    """What JSON calls it."""
    return NAMES.get(type(value), type(value).__name__)
