"""``prefine run`` and ``prefine demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from prefine.cli import console, settings
from prefine.errors import InputError
from prefine.place import hush

META = "prefine.settings"


class RunCommand(TyperCommand):
    """A command whose further options depend on the system named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {flag: not p.is_flag for p in self.params if hasattr(p, "is_flag") for flag in p.opts}
        mine, others = settings.split(args, {**own, "--help": False, "-h": False})
        ctx.meta[META] = others
        ctx.meta[META + ".system"] = next((word for word in args if not word.startswith("-")), None)
        if not _positional(mine, own) and "--config" not in " ".join(mine):
            mine += _swallowed(others)
        return super().parse_args(ctx, mine)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        _help_on(ctx.meta.get(META + ".system"))


def add_to(app: typer.Typer) -> None:
    app.command("run", cls=RunCommand)(run)
    app.command("demo")(demo)


def run(
    ctx: typer.Context,
    system: Annotated[
        str | None, typer.Argument(help="Key or number of a system (`prefine systems` lists them).")
    ] = None,
    world: Annotated[str | None, typer.Option(help="Run on an embedded world.")] = None,
    annotator: Annotated[
        str | None, typer.Option(help="Who judges in the world: perfect, noisy, length-biased, ...")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Your model: a directory or hub name.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Your pairs, labels or demonstrations: a file, directory or hub name.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of the data (default: found out).")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names of columns: OURS=YOURS by commas, such as chosen=good.")
    ] = None,
    skip_problems: Annotated[bool, typer.Option("--skip-problems", help="Leave out rows that cannot be read.")] = False,
    prompts: Annotated[str | None, typer.Option(help="Prompts to answer (default: those of --data).")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Who scores or compares responses: length, reward-model:DIR, endpoint:URL#MODEL, ..."),
    ] = None,
    eval_data: Annotated[
        str | None, typer.Option(help="Data to measure on (default: a tenth of --data, held out).")
    ] = None,
    train_prompts: Annotated[int | None, typer.Option(help="How many prompts to learn from.")] = None,
    eval_prompts: Annotated[int | None, typer.Option(help="How many held-out prompts to measure on.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Responses a prompt that a world's annotator labels.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with all of this; flags go before it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory (default: runs/SYSTEM-WORLD-SEED).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in a directory that holds another run.")] = False,
    seed: Annotated[int | None, typer.Option(help="Decides everything random (default: 0).")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Train adapters of this rank in place of all weights.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Scale of the adapters (default: twice the rank).")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: what torch takes).")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster: auto (running here, or started), or HOST:PORT.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on the cluster (default: one a GPU, else one a CPU).")
    ] = None,
    track: Annotated[str | None, typer.Option(help="Live trackers, by commas: tensorboard, wandb, trackio.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Let the model's own Python code run. Only for models you trust."),
    ] = False,
) -> None:
    """Run a system on an embedded world, or on your own model and data.

    Any option of the recipe and any training or sampling setting can be given as --name value;
    `prefine run SYSTEM --help` lists them. Killed or stopped, the same command goes on where it was.

    Example: prefine run dpo --model ./llama --data pairs.jsonl --beta 0.05 --lr 5e-7
    """
    from prefine import launch
    from prefine.catalogue import find
    from prefine.config import parse, read_config
    from prefine.options import convert, of_function
    from prefine.report.progress import live

    hush()
    values = read_config(config) if config is not None else {}
    if system is not None:
        values["system"] = system
    if "system" not in values:
        raise InputError("no system is named", remedy="`prefine systems` lists them; then: prefine run SYSTEM ...")
    if config is not None:
        parse(values, config)
    entry = find(values["system"])
    given: dict[str, Any] = settings.sort_out(
        ctx.meta[META], of_function(entry.recipe), launch.TRAIN_OPTIONS, launch.SAMPLING_OPTIONS, entry.key
    )
    given["inputs"] = given_flags({
        "world": world, "annotator": annotator, "model": model, "data": data, "prompts": prompts, "judge": judge,
        "eval_data": eval_data, "train_prompts": train_prompts, "eval_prompts": eval_prompts,
        "candidates": candidates, "format": format, "skip_problems": skip_problems or None,
        "columns": convert(dict[str, str], columns, "columns") if columns else None,
    })  # fmt: skip
    given["lora"] = given_flags({"rank": lora_rank, "alpha": lora_alpha})
    given |= {"cluster": cluster, "workers": workers}
    given |= {"seed": seed, "device": device, "threads": threads, "trust_remote_code": trust_remote_code or None}
    given["track"] = [name.strip() for name in track.split(",") if name.strip()] if track else None
    place = launch.place_of(config) if out is None and config is not None else out
    prepared = launch.prepare(_over(values, given), out=place, fresh=fresh)
    _tell(launch.launch(prepared, live()))


def demo(
    out: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/demo"),
) -> None:
    """Iterative preference optimisation on the embedded assistant: a few minutes on two cores.

    Fails (exit code 1) when the policy does not clearly beat the one it started from on the gold reward.

    Example: prefine demo
    """
    from prefine import launch
    from prefine.report.progress import live

    hush()
    outcome = launch.demo(out, live())
    _tell(outcome)
    console.out().print(f"\n{launch.verdict(outcome)}")
    if not launch.learnt(outcome):
        raise typer.Exit(1)


def _over(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values with the flags' over them, a level deep; what is not given does not count."""
    merged = dict(values)
    for name, value in given.items():
        if isinstance(value, Mapping):
            there = merged.get(name) or {}
            if value and isinstance(there, Mapping):
                merged[name] = {**there, **value}
        elif value is not None:
            merged[name] = value
    return _lora_whole(merged)


def given_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were used."""
    return {name: value for name, value in flags.items() if value is not None}


def _lora_whole(values: dict[str, Any]) -> dict[str, Any]:
    lora = values.get("lora")
    if isinstance(lora, dict) and lora and "rank" not in lora:
        raise InputError("--lora-alpha without --lora-rank", remedy="give --lora-rank too, or leave out --lora-alpha")
    if isinstance(lora, dict) and "rank" in lora and "alpha" not in lora:
        values["lora"] = {**lora, "alpha": 2.0 * lora["rank"]}
    return values


def _positional(words: list[str], own: Mapping[str, bool]) -> bool:
    """Whether a word stands by itself, as the name of a system does."""
    taken = False
    for word in words:
        if not taken and not word.startswith("-"):
            return True
        taken = not taken and own.get(word, False)
    return False


def _swallowed(others: dict[str, str]) -> list[str]:
    """In ``--average dpo`` the switch took the system's name for its value: give it back."""
    from prefine.catalogue import systems

    keys = {s.key for s in systems()}
    for name, text in others.items():
        if text in keys:
            others[name] = settings.YES[0]
            return [text]
    return []


def _tell(outcome: Any) -> None:
    rows = []
    for name, after in outcome.after.items():
        if name.endswith("_se"):
            continue
        before = outcome.before.get(name)
        error = outcome.after.get(f"{name}_se")
        rows.append(
            [
                name.replace("_", " "),
                "" if before is None else f"{before:.3f}",
                f"{after:.3f}" + (f" ± {1.96 * error:.3f}" if error else ""),
            ]
        )
    if rows:
        console.table(["held-out", "start", "end (95%)"], rows)
    out = console.out()
    out.print(f"model   {outcome.policy}")
    if outcome.report is not None:
        out.print(f"report  {outcome.report}")


def _help_on(name: str | None) -> None:
    """The options that come with the system, and the settings that every run has."""
    from prefine.catalogue import find
    from prefine.launch import SAMPLING_OPTIONS, TRAIN_OPTIONS
    from prefine.options import describe, of_function

    recipe = {}
    if name is not None:
        entry = find(name)
        recipe = of_function(entry.recipe)
        title = f"Options of {entry.key}: {entry.title}"
        _option_table(title, recipe.values(), describe)
    for title, group in (("Training settings", TRAIN_OPTIONS), ("Sampling settings", SAMPLING_OPTIONS)):
        _option_table(title, [o for n, o in group.items() if n not in recipe], describe)


def _option_table(title: str, options: Any, describe: Any) -> None:
    rows = [[o.flag, describe(o.type), "none" if o.default is None else o.default, o.help] for o in options]
    if rows:
        console.out().print()
        console.table(["option", "takes", "default", ""], rows, title=title)
