"""``prefine report``, ``runs``, ``status`` and ``clean``: looking at runs, while they go on and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefine.cli import console


def add_to(app: typer.Typer) -> None:
    app.command("report")(report)
    app.command("runs")(runs)
    app.command("status")(status)
    app.command("clean")(clean)


def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory.")]) -> None:
    """Write the report of a run, finished or not, or of a comparison: one HTML file that needs nothing else.

    Example: prefine report runs/demo
    """
    from prefine.compare import FILE
    from prefine.report.compare import write_comparison
    from prefine.report.html import write_report

    write = write_comparison if (directory / FILE).exists() else write_report
    console.out().print(str(write(directory)), markup=False)


def runs(
    root: Annotated[Path, typer.Argument(help="The folder that holds runs.")] = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the runs in a folder: what they are, how far they are, what they came to.

    Example: prefine runs
    """
    from prefine.report.runs import as_json, runs_table, show_runs

    rows = runs_table(root)
    if json:
        console.print_json([as_json(row) for row in rows])
    else:
        console.out().print(show_runs(rows))


def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run's directory.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Where one run stands: what is done, what it cost, what is left, and who holds it.

    Example: prefine status runs/demo
    """
    from prefine.report.runs import as_json, show_status, status_of

    standing = status_of(directory)
    if json:
        console.print_json(as_json(standing))
    else:
        console.out().print(show_status(standing))


def clean(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A finished run's directory.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, only list what would go.")] = False,
) -> None:
    """Make room: remove what a finished run made on its way, all but its final policy, its report and people's labels.

    What another run in the same store uses stays. Without --yes nothing is removed.

    Example: prefine clean runs/demo --yes
    """
    from prefine import cleaning
    from prefine.report.runs import say_bytes

    found = cleaning.clean(directory) if yes else cleaning.look(directory)
    rows = [
        ["" if piece.round is None else piece.round + 1, piece.verb, piece.label, say_bytes(piece.size)]
        for piece in found.pieces
    ]
    if rows:
        console.table(["round", "verb", "what", "size"], rows)
    out = console.out()
    done = "removed" if yes else "would go" if found.finished else "could go once the run has come to its end"
    out.print(f"{say_bytes(found.size)} {done}; running the command again has to make: {found.again}")
    if found.shared:
        out.print(f"{found.shared} artifacts stay: other runs use them")
    if rows and not yes and found.finished:
        out.print(f"nothing was touched; to do it: prefine clean {directory} --yes", markup=False)
