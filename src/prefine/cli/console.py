"""How the command line speaks: results on stdout, messages on stderr, one message a failure."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefine.errors import PrefineError

INTERRUPTED = 130
"""The exit code of a command that was stopped with Ctrl-C."""

WIDE = 160


def out() -> Console:
    """For results. Made when needed, so that tests and pipes see what is written; wide where nobody looks on."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(soft_wrap=True, highlight=False, width=_columns())


def _columns() -> int:
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else WIDE


def err() -> Console:
    """For messages."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def explain(error: BaseException, *, debug: bool = False) -> int:
    """Say what went wrong in one message and give the exit code."""
    debug = debug or os.environ.get("PREFINE_DEBUG", "") not in ("", "0")
    if debug and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, PrefineError):
        _message(error.message, error.remedy)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        err().print("stopped; run the same command again to go on")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return _pipe_closed()
    if hasattr(error, "format_message"):  # a usage error of click, whichever copy of it typer carries
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "prefine"
        _message(str(error.format_message()), f"`{command} --help` says how it is used")
        return 2
    if type(error).__name__ == "Exit":
        return int(getattr(error, "exit_code", 1))
    _message(
        f"unexpected {type(error).__name__}: {str(error)[:500]}",
        "this is a fault in prefine, not in what you gave; run again with --debug and report what it says",
    )
    return 1


_NOTED: set[str] = set()


def note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning as one line, once. What libraries say to programmers (deprecations) is kept for --debug."""
    text = str(message)
    if issubclass(category, FutureWarning | DeprecationWarning | PendingDeprecationWarning) or text in _NOTED:
        return
    from prefine.secrets import redact

    _NOTED.add(text)
    err().print(Text.assemble(("note: ", "bold yellow"), redact(text)))


def _message(message: str, remedy: str) -> None:
    from prefine.secrets import redact

    text = Text.assemble(("error: ", "bold red"), redact(message))
    if remedy:
        text = Text.assemble(text, "\n", ("  remedy: ", "bold"), redact(remedy))
    err().print(text)


def _pipe_closed() -> int:
    """The reader went away (``prefine systems | head``): nothing to say, and nothing to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """A plain table, the same on a screen and in a file."""
    made = Table(title=title or None, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in columns:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if value is None else str(value)) for value in row))
    out().print(made)


def print_json(value: Any) -> None:
    """JSON and nothing else on stdout."""
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))
