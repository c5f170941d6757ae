"""The command line: ``prefine``. One file a group of commands; what they do lives elsewhere.

Everything heavy is imported inside the commands, so that ``prefine --help`` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from prefine.cli import comparing, data, labelling, looking, running, serving, systems, worlds
from prefine.cli.console import INTERRUPTED, explain, note
from prefine.place import once

app = typer.Typer(
    name="prefine",
    help="Improve models from preferences: every published method on one engine, durable and measured.",
    epilog="First steps: [bold]prefine demo[/], then [bold]prefine systems[/], then "
    "[bold]prefine run dpo --model DIR --data pairs.jsonl[/].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _everything(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also: PREFINE_DEBUG=1).")] = False,
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
) -> None:
    pass


for group in (running, comparing, labelling, systems, looking, data, worlds, serving):
    group.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 bad input, 3 stopped but can go on,
    130 interrupted. Every failure is one message on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"prefine {version('prefine')}")
        return 0
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not debug:
        warnings.showwarning = note
    try:
        result = app(words, prog_name="prefine", standalone_mode=False)
        if result == INTERRUPTED:  # typer has caught it already
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except BaseException as error:
        failure = error  # python forgets the name of an exception that is over
        return once(lambda: explain(failure, debug=debug))


__all__ = ["app", "main"]
