"""``prefine compare`` and ``prefine advise``: several methods on the same footing, and which ones to try."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from prefine.cli import console, settings
from prefine.cli.running import META, given_flags
from prefine.errors import InputError
from prefine.place import hush


class CompareCommand(TyperCommand):
    """A command that also takes every training and sampling setting."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {flag: not p.is_flag for p in self.params if hasattr(p, "is_flag") for flag in p.opts}
        mine, ctx.meta[META] = settings.split(args, {**own, "--help": False, "-h": False})
        return super().parse_args(ctx, mine)


def add_to(app: typer.Typer) -> None:
    app.command("compare", cls=CompareCommand)(compare)
    app.command("advise")(advise)


def compare(
    ctx: typer.Context,
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="METHOD...", help="Systems, or objectives such as lcpo:dpo.")
    ] = None,
    world: Annotated[str | None, typer.Option(help="Compare on an embedded world.")] = None,
    annotator: Annotated[str | None, typer.Option(help="Who judges in the world.")] = None,
    model: Annotated[str | None, typer.Option(help="Your model: a directory or hub name.")] = None,
    data: Annotated[str | None, typer.Option(help="Your pairs, labels or lists.")] = None,
    format: Annotated[str | None, typer.Option(help="Format of the data (default: found out).")] = None,
    columns: Annotated[str | None, typer.Option(help="Names of columns: OURS=YOURS by commas.")] = None,
    skip_problems: Annotated[bool, typer.Option("--skip-problems", help="Leave out rows that cannot be read.")] = False,
    prompts: Annotated[str | None, typer.Option(help="Prompts to answer (default: those of --data).")] = None,
    judge: Annotated[str | None, typer.Option(help="Who scores responses; without one there is no matrix.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="Data to measure on (default: held out of --data).")] = None,
    train_prompts: Annotated[int | None, typer.Option(help="How many prompts to learn from.")] = None,
    eval_prompts: Annotated[int | None, typer.Option(help="How many held-out prompts to measure on.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Responses a prompt that a world's annotator labels.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where it goes (default: runs/compare-WORLD-SEED).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over where another comparison was.")] = False,
    seed: Annotated[int, typer.Option(help="Decides everything random, the same for all.")] = 0,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's own Python code run.")
    ] = False,
) -> None:
    """Run several methods from the same start, on the same data in the same order, and report them side by side.

    A method is a system with any of its options, as simpo or dpo(beta=0.05), or an objective with wrappers around
    it, as lcpo:dpo. Training and sampling settings (--lr, --epochs, ...) hold for all. Killed or stopped, the same
    command goes on where it was; another method added to it is the only one that is run.

    Example: prefine compare dpo simpo lcpo:dpo --world assistant --annotator noisy
    """
    from prefine import compare as comparing
    from prefine import launch
    from prefine.options import convert
    from prefine.report.progress import live

    hush()
    values = dict(settings.sort_out(ctx.meta[META], {}, launch.TRAIN_OPTIONS, launch.SAMPLING_OPTIONS, "compare"))
    values.pop("options")
    values["inputs"] = given_flags({
        "world": world, "annotator": annotator, "model": model, "data": data, "prompts": prompts, "judge": judge,
        "eval_data": eval_data, "train_prompts": train_prompts, "eval_prompts": eval_prompts,
        "candidates": candidates, "format": format, "skip_problems": skip_problems or None,
        "columns": convert(dict[str, str], columns, "columns") if columns else None,
    })  # fmt: skip
    if world is None and model is None:
        raise InputError("there is nothing to compare on", remedy="give --world NAME, or --model DIR and --data FILE")
    lora = None if lora_rank is None else {"rank": lora_rank, "alpha": 2.0 * lora_rank}
    values |= given_flags({
        "seed": seed, "device": device, "threads": threads, "trust_remote_code": trust_remote_code or None,
        "lora": lora,
    })  # fmt: skip
    where = world or Path(str(model)).resolve().name
    place = launch.RUNS / f"compare-{where}-{seed}" if out is None else out
    report = comparing.compare(comparing.prepare(methods or [], values, place, fresh=fresh), live())
    _tell(place)
    console.out().print(f"report  {report}", markup=False)


def _tell(place: Path) -> None:
    """The table of the report, and who beats whom."""
    import json

    from prefine.compare import FILE
    from prefine.report.compare import read_methods, told

    about = json.loads((place / FILE).read_text())
    columns, rows = told(read_methods(place, about["methods"]))
    console.table(["method", *columns], [[row["name"], *row["cells"]] for row in rows])
    if about["names"]:
        heads = about["names"]
        wins = [["" if win is None else f"{win:.0%}" for win in line] for line in about["wins"]]
        console.out().print()
        console.table(["row beats column", *heads], [[name, *line] for name, line in zip(heads, wins, strict=True)])


def advise(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file, a datasets directory, or a hub name.")],
    format: Annotated[str | None, typer.Option(help="What format it has (default: found out).")] = None,
    columns: Annotated[str | None, typer.Option(help="Names of columns: OURS=YOURS by commas.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look at data and name three methods that suit it: why, and the command for each.

    Example: prefine advise pairs.jsonl
    """
    from dataclasses import asdict

    from rich.text import Text

    from prefine import advise as advising
    from prefine.options import convert

    facts = advising.look(data, format, convert(dict[str, str], columns, "columns") if columns else None)
    found = advising.advise(facts)
    if json:
        named = [{"system": a.system.key, "why": a.why, "command": a.command} for a in found]
        console.print_json({"facts": asdict(facts), "advice": named})
        return
    out = console.out()
    console.table(["what was seen", ""], _seen(facts))
    for place, advised in enumerate(found, 1):
        out.print(Text.assemble("\n", (f"{place}. {advised.system.key}", "bold"), f"  {advised.system.title}"))
        out.print(Text(f"   because {advised.why}"))
        out.print(Text(f"   {advised.command}", "cyan"))
    if len(found) > 1:
        out.print(Text(f"\nall of them on the same footing: {advising.together(found)}"))


def _seen(facts: Any) -> list[list[str]]:
    """The facts in words."""
    forms = ", ".join(f"{count:,} {form}" for form, count in facts.serves.items() if count)
    rows = [["it serves", forms or "prompts with answers"]]
    if facts.pairs:
        noise = "not known: nothing is labelled twice, and no score stands beside a label"
        if facts.noise is not None:
            noise = f"{facts.noise:.0%}: {facts.noise_from}"
        rows += [
            ["stated margins", f"{facts.margins:.0%} of pairs"],
            ["wrong labels", noise],
            ["length, words", f"{facts.length_chosen:g} chosen, {facts.length_rejected:g} rejected (medians)"],
            ["longer is chosen", f"{facts.longer_chosen:.0%} of pairs"],
            ["in common", f"{facts.similarity:.0%} of what chosen and rejected say (median)"],
        ]  # fmt: skip
    if facts.answers:
        rows.append(["gold answers", f"for {facts.answers:,} of {facts.slates:,} prompts"])
    rows.append(["annotators", f"{facts.annotators} ({facts.annotator_column})" if facts.annotators else "not said"])
    if facts.rationales:
        rows.append(["reasons", f"in the column {facts.rationales}"])
    return rows
