"""``prefine worlds`` and ``prefine world``: the embedded worlds, and what can be taken out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefine.cli import console
from prefine.errors import InputError

world = typer.Typer(help="Take prompts or the base policy out of a world.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command("worlds")(worlds)
    app.add_typer(world, name="world")


def worlds() -> None:
    """List the embedded worlds: small tasks with a known gold reward to try methods on.

    Example: prefine worlds
    """
    from prefine.worlds import worlds as every_world

    console.table(
        ["world", "annotators", "checks", "demonstrates", "what it is"],
        [
            [
                w.name, ", ".join(sorted(w.annotators)), "yes" if w.verifier else "", "yes" if w.demonstrate else "",
                w.summary,
            ]
            for w in every_world()
        ],
    )  # fmt: skip


@world.command("prompts")
def prompts(
    name: Annotated[str, typer.Argument(help="A world.")],
    out: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    n: Annotated[int, typer.Option(min=1, help="How many.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 0,
) -> None:
    """Write prompts of a world to a JSONL file that --prompts reads.

    Example: prefine world prompts arithmetic --out prompts.jsonl --n 500
    """
    import json

    from prefine.store import write_text
    from prefine.worlds import find_world

    slates = find_world(name).prompts(split, n, seed)
    _new(out)
    lines = [json.dumps(slate.to_json(), ensure_ascii=False) + "\n" for slate in slates]
    write_text(out, "".join(lines))
    console.out().print(f"{len(lines)} prompts in {out}", markup=False)


@world.command("base")
def base(
    name: Annotated[str, typer.Argument(help="A world.")],
    out: Annotated[Path, typer.Option(help="The directory to make.")],
) -> None:
    """Write the base policy of a world to a directory that --model (and plain transformers) reads.

    Example: prefine world base assistant --out models/assistant
    """
    import shutil
    import tempfile

    from prefine.worlds import find_world

    found = find_world(name)
    _new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".base-") as scratch:
        made = found.base(Path(scratch) / "cache")
        shutil.move(str(made), out)
    console.out().print(f"base policy of {name} in {out}", markup=False)


def _new(out: Path) -> None:
    if out.exists():
        raise InputError("there is something already", remedy="choose another --out, or remove it", file=out)
