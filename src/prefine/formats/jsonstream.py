"""JSON values out of a text stream, one at a time, without holding the file.

Handles a top-level array, an array inside an object (``{"data": [...]}``) and objects one after the other
(pretty-printed, so that a line is not a row).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TextIO

CHUNK = 1 << 16
MAX_VALUE = 1 << 26
"""64 MiB of characters: a single row longer than this is not a row."""

WRAPPERS = ("data", "rows", "train", "examples", "instances")
_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|[-+.\deE]+|true|false|null)'
WRAPPED = re.compile(r'\{\s*(?:"[^"\\]*"\s*:\s*' + _SCALAR + r'\s*,\s*)*"(?:' + "|".join(WRAPPERS) + r')"\s*:\s*(?=\[)')


class BrokenStream(ValueError):
    """The text stopped being JSON; nothing after it can be read."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class JsonStream:
    """A moving window over the text. Memory stays at a few chunks plus the longest value."""

    def __init__(self, text: TextIO) -> None:
        self.text = text
        self.window = ""
        self.at = 0
        self.line = 1
        self.ended = False
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read on. The chunk doubles with the value being read, so long values cost linear time."""
        chunk = self.text.read(max(CHUNK, len(self.window) - self.at))
        self.ended = not chunk
        self.window = self.window[self.at :] + chunk
        self.at = 0
        return not self.ended

    def move(self, to: int) -> None:
        self.line += self.window.count("\n", self.at, to)
        self.at = to

    def peek(self) -> str:
        """The next character that is not white space ("" at the end)."""
        while True:
            here = self.at
            while here < len(self.window) and self.window[here] in " \t\r\n":
                here += 1
            self.move(here)
            if here < len(self.window):
                return self.window[here]
            if not self.more():
                return ""

    def value(self) -> object:
        """The JSON value that starts here."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.window, self.at)
            except json.JSONDecodeError as error:
                if not self.ended and self._may_be_cut(error) and self.more():
                    continue
                line = self.line + self.window.count("\n", self.at, error.pos)
                message = "the file is cut off inside a row" if self.ended else error.msg
                raise BrokenStream(message, line) from None
            except (RecursionError, ValueError) as error:
                raise BrokenStream(f"{error}"[:100], self.line) from None
            if end == len(self.window) and not self.ended and self.more():
                continue  # a number may go on in the next chunk
            self.move(end)
            return value

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the text may merely end too early, rather than be wrong."""
        if len(self.window) - self.at > MAX_VALUE:
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self.window) - 16

    def rows(self) -> Iterator[tuple[int, object]]:
        """(line, value) for every element, whichever of the three shapes the file has."""
        first = self.peek()
        while len(self.window) < CHUNK and self.more():
            pass
        wrapped = WRAPPED.match(self.window, self.at) if first == "{" else None
        if wrapped:
            self.move(wrapped.end())
        yield from self._array() if wrapped or first == "[" else self._sequence()
        if not wrapped and self.peek():
            raise BrokenStream("something follows the end of the list", self.line)

    def _array(self) -> Iterator[tuple[int, object]]:
        self.move(self.at + 1)
        if self.peek() == "]":
            self.move(self.at + 1)
            return
        while True:
            if not self.peek():
                raise BrokenStream("the file is cut off inside its list of rows", self.line)
            line = self.line
            yield line, self.value()
            mark = self.peek()
            if mark not in (",", "]"):
                what = f"expected ',' or ']' after a row, found {mark!r}"
                raise BrokenStream(what if mark else "the file is cut off inside its list of rows", self.line)
            self.move(self.at + 1)
            if mark == "]":
                return

    def _sequence(self) -> Iterator[tuple[int, object]]:
        while self.peek():
            line = self.line
            yield line, self.value()
