"""``prefine data check`` and ``prefine data convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefine.cli import console

data = typer.Typer(help="Look at data, and move it between formats.", no_args_is_help=True)

Format = Annotated[str | None, typer.Option(help="What format it has (default: found out).")]
Columns = Annotated[str | None, typer.Option(help="Names of columns: OURS=YOURS by commas, such as chosen=good.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(data, name="data")


@data.command("check")
def check(
    file: Annotated[str, typer.Argument(help="A file, a datasets directory, or a dataset's hub name.")],
    model: Annotated[str | None, typer.Option(help="Count tokens with the tokenizer in this model directory.")] = None,
    format: Format = None,
    columns: Columns = None,
    limit: Annotated[int, typer.Option(min=1, help="How many problems of a kind to show.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a file is, what is in it, every problem with its line, and which systems can use it.

    Ends with exit code 2 when rows cannot be read.

    Example: prefine data check pairs.jsonl
    """
    from prefine import formats

    report = formats.check(file, format, columns=_columns(columns), tokenizer=model, limit=limit)
    uses = _systems(formats.serves(report))
    if json:
        console.print_json({**report.to_json(), "systems": dict(uses)})
    else:
        console.out().print(formats.render(report))
        _tell_systems(uses)
    if not report.ok:
        raise typer.Exit(2)


@data.command("convert")
def convert(
    source: Annotated[str, typer.Argument(help="What to convert.")],
    target: Annotated[Path, typer.Argument(help="Where to: .jsonl, .json, .jsonl.gz, .parquet.")],
    to: Annotated[str, typer.Option(help="The format to write (docs: data formats).")],
    format: Format = None,
    columns: Columns = None,
    skip_problems: Annotated[bool, typer.Option("--skip-problems", help="Leave out rows that cannot be read.")] = False,
    every_pair: Annotated[
        bool, typer.Option("--every-pair", help="All pairs of a list, not best against worst.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what the format has no room for in a column of its own.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a file that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Say what was done as JSON.")] = False,
) -> None:
    """Move data between formats and say what the target has no room for.

    Example: prefine data convert ultrafeedback.jsonl pairs.jsonl --to pairs
    """
    from prefine import formats

    done = formats.convert(
        source, target, to=to, format=format, columns=_columns(columns),
        on_problem="skip" if skip_problems else "stop", every_pair=every_pair, keep=keep, overwrite=overwrite,
    )  # fmt: skip
    if json:
        console.print_json(done.to_json())
    else:
        console.out().print(formats.render_conversion(done))


def _systems(served: set[str]) -> list[tuple[str, list[str]]]:
    """(how the file is used, by which systems), those that learn most from it first."""
    from prefine import catalogue

    found: dict[str, list[str]] = {}
    for system in catalogue.systems() if served else ():
        takes = {name for name in system.inputs if name not in system.optional} - {"policy"}
        if takes & served and takes - served <= INSTEAD.keys() - {"verifier"}:
            use = "learn from it" if (takes & served) - {"prompts"} else "answer its prompts"
            more = sorted({INSTEAD[name] for name in takes & INSTEAD.keys()})
            found.setdefault(", ".join([use, *(f"with {flag}" for flag in more)]), []).append(system.key)
    return sorted(found.items(), key=lambda item: (not item[0].startswith("learn"), len(item[0])))


INSTEAD = {"judge": "--judge", "preference": "--judge", "verifier": "--judge verifier"}
"""What is never in the file itself -> the flag that gives it. Answers for a verifier have to be in the file."""


def _tell_systems(uses: list[tuple[str, list[str]]]) -> None:
    from rich.text import Text

    out = console.out()
    out.print()
    for use, keys in uses:
        out.print(Text(f"systems that {use}: {', '.join(keys)}"))
    if not uses:
        out.print(Text("no system can use it"))


def _columns(text: str | None) -> dict[str, str] | None:
    from prefine.options import convert as read

    return None if text is None else read(dict[str, str], text, "columns")
