"""``prefine systems``, ``show`` and ``claim``: the catalogue."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from prefine.cli import console
from prefine.errors import InputError


def add_to(app: typer.Typer) -> None:
    app.command("systems", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(systems)
    app.command("show")(show)
    app.command("claim")(claim)


def systems(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    family: Annotated[str | None, typer.Option(help="Only this family.")] = None,
) -> None:
    """List the catalogue: number, key, family and what each system needs.

    Systems are also found by what they vary: --data, --granularity, --learning, --aim, --loss, --reference,
    --divergence, --beta, --safety, --length, --likelihood, --shift, --question (docs: all systems). Several values of
    one, by commas, mean any of them.

    Example: prefine systems --data noisy-pairs --reference none
    """
    from prefine import catalogue, facets

    wanted = _facets(ctx.args)
    entries = catalogue.systems()
    families = sorted({s.family for s in entries})
    if family is not None and family not in families:
        raise InputError(f"there is no family {family!r}", remedy=f"the families are {', '.join(families)}")
    chosen = [s for s in entries if family in (None, s.family) and facets.fits(s.facets, wanted)]
    if json:
        console.print_json([_row(s) for s in chosen])
        return
    if not chosen:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        console.out().print(f"no system is at once: {asked}" + (f", of the family {family}" if family else ""))
        for name, value in wanted.items():
            keys = [s.key for s in entries if facets.fits(s.facets, {name: value})]
            console.out().print(f"  {name} {value}: {', '.join(keys)}", markup=False)
        console.out().print("parts of several may compose: docs, comparing methods")
        return
    rows = [[_number(s), s.key, s.family, ", ".join(s.inputs), s.title] for s in chosen]
    console.table(["no.", "key", "family", "needs", "title"], rows)
    console.out().print("\n`prefine show KEY` says what a system is and when to use it.", style="dim")


def show(
    system: Annotated[str, typer.Argument(help="Key or number.")],
    source: Annotated[bool, typer.Option("--source/--no-source", help="With the recipe's source.")] = True,
) -> None:
    """What a system is, when to use it, its options, and its source.

    Example: prefine show sppo
    """
    from rich.syntax import Syntax
    from rich.text import Text

    from prefine import catalogue
    from prefine.options import describe, of_function

    entry = catalogue.find(system)
    out = console.out()
    out.print(Text.assemble((f"{_number(entry)} {entry.key}".strip(), "bold"), f"  {entry.title}"))
    varied = [f"{name}: {value}" for name, value in entry.facets.items()]
    out.print(Text(" · ".join(x for x in (entry.family, entry.paper, *varied) if x), "dim"))
    about = inspect.getdoc(inspect.getmodule(entry.recipe)) or ""
    for text in (about, inspect.getdoc(entry.recipe) or ""):
        out.print(Text(f"\n{text}"))
    out.print()
    console.table(["needs", ""], [[name, catalogue.INPUTS[name]] for name in entry.inputs])
    rows = []
    for o in of_function(entry.recipe).values():
        world = entry.suited(entry.world).get(o.name)
        default = f"{o.default}" + (f" (worlds: {world})" if world is not None else "")
        rows.append([o.flag, describe(o.type), default, o.help])
    if rows:
        out.print()
        console.table(["option", "takes", "default", ""], rows)
    if entry.claim is not None:
        out.print(Text.assemble("\n", ("claim  ", "bold"), f"{entry.claim.statement} (against {entry.claim.baseline})"))
    out.print(Text.assemble("\n", ("try it ", "bold"), f"prefine run {entry.key} --world {entry.world}"))
    file = inspect.getsourcefile(entry.recipe)
    if source and file:
        out.print(Text(f"\n{file}", "dim"))
        out.print(Syntax(inspect.getsource(entry.recipe), "python", background_color="default", word_wrap=True))


def claim(
    names: Annotated[list[str] | None, typer.Argument(metavar="SYSTEM...", help="Keys or numbers.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every system that has a claim.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds (default: what the claim says).")] = None,
    out: Annotated[Path, typer.Option(help="Where the figures go; rows of other systems are kept.")] = Path(
        "claims.json"
    ),
) -> None:
    """Measure the claim of a system: the experiment that shows what its paper says, over several seeds.

    Example: prefine claim sppo ipo --seeds 2
    """
    from prefine import catalogue
    from prefine.claims import run_claims
    from prefine.report.progress import live

    if all == bool(names):
        raise InputError("name systems, or give --all" if not names else "--all and names contradict each other",
                         remedy="prefine claim SYSTEM..., or prefine claim --all")  # fmt: skip
    chosen = [s.key for s in catalogue.systems() if s.claim is not None] if all else list(names or ())
    for name in chosen:
        entry = catalogue.find(name)
        if entry.claim is None:
            raise InputError(f"{entry.key} is a building block without a claim", remedy="leave it out")

    def tell(result: Any) -> None:
        mark = {"holds": "green", "fails": "red"}.get(result.verdict, "yellow")
        console.out().print(f"[{mark}]{result.verdict:6}[/] {_number(result.system)} {result.system.key}"
                            f"  ({result.seconds:.0f} s)")  # fmt: skip

    rows = run_claims(chosen, out, seeds=None if seeds is None else range(seeds), progress=live(), tell=tell)
    console.out().print(f"figures in {out}")
    if any(row["verdict"] == "error" for row in rows):
        raise typer.Exit(1)


def _facets(words: list[str]) -> dict[str, str]:
    """--name value pairs that are facets, checked."""
    from prefine import facets
    from prefine.cli.settings import split

    stray, wanted = split(words, {})
    if stray:
        raise InputError(f"{stray[0]!r} is no option here", remedy="write --facet value, as --reference none")
    facets.check("prefine systems", wanted, several=True)
    return wanted


def _number(system: Any) -> str:
    return "" if system.number is None else f"{system.number:03d}"


def _row(system: Any) -> dict[str, Any]:
    from prefine import facets
    from prefine.options import of_function

    return {
        "number": system.number,
        "key": system.key,
        "title": system.title,
        "family": system.family,
        "needs": list(system.inputs),
        "options": {n: _plain(o.default) for n, o in of_function(system.recipe).items()},
        "paper": system.paper,
        "facets": {name: list(values) for name, values in facets.filled(system.facets).items()},
        "claim": None if system.claim is None else system.claim.statement,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None) else str(value)
