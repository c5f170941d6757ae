"""``prefine label``: people answer what a run has asked, in the terminal."""

from __future__ import annotations

import contextlib
import getpass
import json as jsonlib
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from prefine.cli import console
from prefine.errors import InputError
from prefine.labelling import MEANING, SKIP, AlreadyAnswered, LabelQueue, Question, checked_name, queue_of

UNDO, QUIT = "u", "q"
KEYS = {"s": SKIP}


def add_to(app: typer.Typer) -> None:
    app.command("label")(label)


def label(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run's directory, as its message names it.")],
    by: Annotated[
        str | None, typer.Option("--as", help="Your name, for the annotator column (default: who is logged in).")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say where the queue stands.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write the answers as data (JSONL) that prefine reads, and stop.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="With --status, as JSON.")] = False,
) -> None:
    """Answer the questions that a run with --judge people has asked.

    One question at a time: 1 or 2 for the better response, = for a tie, s to skip, u to undo, q to stop. Every
    answer is on the disk before the next question comes, so nothing is lost whenever you stop; the same command goes
    on. Without a terminal, one answer a line is read from stdin.

    Example: prefine label runs/iterate-llama-0 --as eva
    """
    queue = queue_of(directory)
    if export is not None:
        _export(queue, export)
    elif status:
        _status(queue, json)
    else:
        _work(queue, checked_name(getpass.getuser() if by is None else by))


def _work(queue: LabelQueue, by: str) -> None:
    """Show what is pending until nothing is, or until told to stop."""
    show: Callable[[Question, int, int], None]
    words, show = (_keys(), _show) if sys.stdin.isatty() else (_lines(), _one_line)
    with contextlib.closing(words):  # the terminal as it was, however this ends
        done = _until_done(queue, by, words, show)
    _left(queue, done, by)


def _until_done(
    queue: LabelQueue, by: str, words: Iterator[tuple[str, str]], show: Callable[[Question, int, int], None]
) -> int:
    """How many were answered."""
    done, pending = 0, queue.pending(by)
    while pending:
        question = pending[0]
        show(question, done + 1, done + len(pending))
        word, where = next(words, (QUIT, ""))
        if word == QUIT:
            break
        if word == UNDO:
            back = queue.undo(by)
            done = max(0, done - (back is not None))
            _say("nothing to undo" if back is None else "taken back")
        else:
            done += _given(queue, question, word, where, by)
        pending = _in_front(queue.pending(by), question if word != UNDO else back)
    return done


def _in_front(pending: list[Question], wanted: Question | None) -> list[Question]:
    """The question that is being looked at stays in front while it is open."""
    ids = [q.id for q in pending]
    if wanted is None or wanted.id not in ids:
        return pending
    at = ids.index(wanted.id)
    return [pending[at], *pending[:at], *pending[at + 1 :]]


def _given(queue: LabelQueue, question: Question, word: str, where: str, by: str) -> int:
    """1 if the answer was taken."""
    answer = KEYS.get(word, word)
    if answer not in question.options:
        if where:
            raise InputError(f"{where}: {word!r} is no answer", remedy=f"give one of: {_choices(question)}")
        _say(f"{word!r} is no answer: {_choices(question)}")
        return 0
    try:
        queue.answer(question.id, answer, by=by)
    except AlreadyAnswered as error:
        _say(error.message)
        return 0
    return 1


def _left(queue: LabelQueue, done: int, by: str) -> None:
    found = queue.status()
    _say(f"{done} answered by {by}; {found.given} of {found.asked} in all, {found.left} left")
    if not found.left:
        _say("nothing is left: run the command that asked again, and it goes on")
    elif not queue.pending(by):
        _say(f"what is left is for others than {by}")


# --- asking ---------------------------------------------------------------------------------------------------


def _keys() -> Generator[tuple[str, str], None, None]:
    """Single keys from the terminal, also those that were typed ahead (click's getchar would drop them)."""
    import os
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        while key := os.read(descriptor, 1):
            if key == b"\x04":  # Ctrl-D
                return
            yield key.decode("ascii", "replace").lower().strip() or "?", ""
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _lines() -> Generator[tuple[str, str], None, None]:
    """Lines of stdin, with where they stood."""
    for place, text in enumerate(sys.stdin, 1):
        if word := text.strip().lower():
            yield word, f"line {place} of stdin"


def _show(question: Question, place: int, of: int) -> None:
    from rich.markup import escape
    from rich.panel import Panel
    from rich.text import Text

    from prefine.slate import prompt_text

    out = console.out()
    out.clear()
    out.print(Text.assemble((f"question {place} of {of}", "bold"), "   ", (_choices(question), "dim")))
    out.print(Panel(Text(_safe(prompt_text(question.prompt))), title="prompt", title_align="left"))
    names = [""] if len(question.shown) == 1 else ["1", "2"]
    for name, text in zip(names, question.shown, strict=True):
        title = escape(f"[{name}]") if name else "response"
        out.print(Panel(Text(_safe(text)), title=title, title_align="left", border_style="cyan"))


def _one_line(question: Question, place: int, of: int) -> None:
    """For pipes and logs: no screen to clear."""
    _say(f"question {place} of {of}")


def _choices(question: Question) -> str:
    named = [f"{key} {meaning}" for key, meaning in MEANING[question.form].items()]
    return ", ".join([*named, "s skip", "u undo", "q stop"])


def _safe(text: str) -> str:
    """What a model wrote, without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _say(text: str) -> None:
    console.out().print(text, markup=False)


# --- looking --------------------------------------------------------------------------------------------------


def _status(queue: LabelQueue, json: bool) -> None:
    found = queue.status()
    row: dict[str, Any] = {
        "asked": found.asked, "given": found.given, "skipped": found.skipped, "left": found.left, "by": dict(found.by),
    }  # fmt: skip
    if json:
        console.print_json(row)
        return
    _say(f"{found.given} of {found.asked} answered ({found.skipped} skipped), {found.left} left")
    if found.by:
        console.table(["annotator", "answers"], sorted(found.by.items()))


def _export(queue: LabelQueue, target: Path) -> None:
    from prefine.store import write_text

    if target.exists():
        raise InputError("there is something already", remedy="choose another --export", file=target)
    rows = list(queue.export())
    write_text(target, "".join(jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _say(f"{len(rows)} rows in {target}")
