"""From a configuration to a finished run: check everything, bind the inputs, run the recipe, measure, report.

``prepare`` does nothing that lasts and says everything that can be wrong before anything heavy starts;
``launch`` does the work.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefine.binding import Source, source_of
from prefine.binding.rehearsal import wanted
from prefine.catalogue import System, find
from prefine.config import FILE, RunConfig, differences, parse, read_config, write_config
from prefine.engine import processes
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError, RunStopped
from prefine.labelling import FOLDER, LabelQueue
from prefine.options import Option, of_dataclass, of_function, unknown
from prefine.place import place
from prefine.policies import samplers
from prefine.policies.base import Sampling
from prefine.store import holder

if TYPE_CHECKING:
    from prefine.artifacts import PolicyHandle
    from prefine.cluster import Cluster
    from prefine.run import Run
    from prefine.telling import Progress

RUNS = Path("runs")

TRAIN_OPTIONS: Mapping[str, Option] = of_dataclass(TrainSettings, without=["seed"])
SAMPLING_OPTIONS: Mapping[str, Option] = of_dataclass(Sampling, without=["n"])

TRACES = {"LOCK", "journal.jsonl", "work", FOLDER}
"""What a run that was killed at once may have left."""

DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Prepared:
    """A run about which everything is known and nothing has been done."""

    config: RunConfig
    system: System
    inputs: tuple[str, ...]
    """What the recipe is given; optional inputs that nobody asked for are left out."""
    source: Source
    settings: TrainSettings
    sampling: Sampling
    out: Path
    fresh: bool = False
    store: Path | None = None
    """Where artifacts are (default: beside the run)."""
    alike: bool = False
    """See ``Run.alike``."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    directory: Path
    policy: Path
    report: Path | None
    before: Mapping[str, float]
    after: Mapping[str, float]


def prepare(values: Mapping[str, Any], *, out: Path | None = None, fresh: bool = False, look: bool = True) -> Prepared:
    """Check a configuration and fill in its defaults. Raises InputError; leaves nothing behind. ``look``: also at
    the inputs and the directory (else only settings are worked out)."""
    config = parse(values)
    system = find(config.system)
    options = of_function(system.recipe)
    _check_names(config, system, options)
    source = source_of(config, system.world)
    given = {**config.sampling, **config.train}
    suited = {k: v for k, v in source.settings(system).items() if k not in given}
    train = _settings(TRAIN_OPTIONS, config.train, suited, without=options)
    sampling = _settings(SAMPLING_OPTIONS, config.sampling, suited, without=options)
    if not config.cluster:  # there its workers need it, and say so
        samplers.need(sampling.get("sampler", "own"))
    settings = TrainSettings.of(train)
    chosen = _settings(options, config.options, suited)
    TrainSettings.of({k: chosen[k] for k in passed_on(options)})
    optional = _optional(system)
    asked = wanted(system, chosen, optional)
    names = tuple(n for n in system.inputs if n not in optional or n in asked or source.wants(n))
    inputs = source.check(system, names, chosen) if look else config.inputs
    _check_place(config)
    complete = config.model_copy(
        update={
            "system": system.key,
            "inputs": inputs,
            "options": chosen,
            "train": {k: getattr(settings, k) for k in TRAIN_OPTIONS},
            "sampling": sampling,
        }
    )
    name = f"{system.key}-{source.name}-{config.seed}"
    directory = RUNS / re.sub(r"[^\w.-]+", "-", name) if out is None else Path(out)
    if look:
        check_directory(directory, complete, fresh)
    return Prepared(complete, system, names, source, settings, Sampling(**sampling), directory, fresh)


def _measured(run: Run, policy: PolicyHandle) -> dict[str, float]:
    """The yardstick's figures. A reward model writes nothing and is no other model's likelihood: how it ranks
    held-out pairs is all there is to say."""
    from prefine.policies import kind_of
    from prefine.policies.reward_model import RewardModel

    if run.yardstick is not None and kind_of(policy.path) == RewardModel.kind:
        run.yardstick = dataclasses.replace(run.yardstick, start=policy, prompts=None, unit="reward")
    return run.watch(policy)


def place_of(file: Path) -> Path | None:
    """The run directory that a configuration was written down in, if it lies in one."""
    return file.parent if file.name == FILE and (file.parent / "journal.jsonl").exists() else None


def launch(prepared: Prepared, progress: Progress | None = None) -> Outcome:
    """Run the recipe in its directory; running it again goes on or replays.

    Under ``torchrun`` every process launches, and they work together (``prefine.ranks``).
    """
    _place(prepared.config)
    with processes.joined(prepared.config.device):
        return _launched(prepared, progress)


def _launched(prepared: Prepared, progress: Progress | None) -> Outcome:
    from prefine.report.trackers import trackers_for

    config = prepared.config
    leads = processes.rank() == 0
    if leads and prepared.fresh and prepared.out.exists():
        _clear(prepared.out)
    run = _kind_of_run()(
        prepared.out,
        store=prepared.store,
        seed=config.seed,
        settings=prepared.settings,
        sampling=prepared.sampling,
        placement=placement(config),
        adapter=_adapter(config),
        progress=progress,
        cluster=_cluster(config),
    )
    run.alike = prepared.alike
    with run:
        write_config(config, run.dir)
        run.trackers = trackers_for(config.track if leads else [], run.dir, config.plain())
        try:
            before, after, final = _perform(prepared, run)
        finally:
            for tracker in run.trackers:
                tracker.close()
    return Outcome(run.dir, final, _report(run) if leads else None, before, after)


def _clear(out: Path) -> None:
    """An empty directory, but for what people have answered: that is never asked again."""
    for path in out.iterdir():
        if path.name != FOLDER:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    LabelQueue(out / FOLDER).drop_unanswered()


def _kind_of_run() -> type[Run]:
    from prefine.ranks import SharedRun
    from prefine.run import Run

    return SharedRun if processes.together() else Run


def _perform(prepared: Prepared, run: Run) -> tuple[dict[str, float], dict[str, float], Path]:
    """Inputs, recipe, measurements."""
    start = prepared.source.start(run)
    bound = [
        prepared.source.bind(run, name, start) if name in prepared.inputs else None for name in prepared.system.inputs
    ]
    run.yardstick = prepared.source.yardstick(run, start)
    # A reward model has no answers of its own: nothing of the start is like what will be measured of it.
    before = {} if prepared.system.family == "reward" else run.watch(start)
    policy = prepared.system.recipe(run, *bound, **prepared.config.options)
    after = _measured(run, policy)
    return before, after, run.finish(policy)


def demo(out: Path, progress: Progress | None = None) -> Outcome:
    """Iterative preference optimisation on the assistant world, from the base policy in the house.

    What another version's demo left in the directory is replaced; any other run there is an InputError.
    """
    there = read_config(out / FILE) if (out / FILE).exists() else {}
    earlier = there.get("system") == DEMO["system"] and "world" in (there.get("inputs") or {})
    prepared = prepare(DEMO, out=out, fresh=earlier)
    same = earlier and not differences(prepared.config.plain(), there)
    return launch(dataclasses.replace(prepared, fresh=earlier and not same), progress)


DEMO: Mapping[str, Any] = {
    "system": "iterate",
    "inputs": {"world": "assistant", "train_prompts": 600, "eval_prompts": 192},
    "options": {"n": 8, "curator": "length-matched"},
    "train": {"lr": 3e-4},
}
"""Lessons between answers of equal length, so that what is gained is quality."""


def verdict(outcome: Outcome) -> str:
    """What a run on a world came to, in two sentences."""
    before, after = outcome.before, outcome.after
    rate, error = 100 * after.get("win_rate", 0.0), 196 * after.get("win_rate_se", 0.0)
    how = "beats" if learnt(outcome) else "does not clearly beat"
    alike = after.get("win_rate_same_length")
    length = "" if alike is None else f", and {100 * alike:.0f}% where both are of the same length"
    return (
        f"The trained policy {how} the one it started from on the gold reward: it wins {rate:.0f}% ± {error:.0f}% "
        f"of held-out prompts{length}.\n"
        f"Gold reward {before.get('reward', 0.0):.2f} -> {after.get('reward', 0.0):.2f}, "
        f"length {before.get('length', 0.0):.1f} -> {after.get('length', 0.0):.1f} tokens."
    )


def learnt(outcome: Outcome) -> bool:
    """Whether the 95% interval of the win rate against the start lies above one half."""
    rate, error = outcome.after.get("win_rate", 0.0), outcome.after.get("win_rate_se", 0.0)
    return rate - 1.96 * error > 0.5


# --- checks ---------------------------------------------------------------------------------------------------


def _check_names(config: RunConfig, system: System, options: Mapping[str, Option]) -> None:
    for group, known, what in (
        (config.options, options, f"{system.key} has no option"),
        (config.train, TRAIN_OPTIONS, "there is no training setting"),
        (config.sampling, SAMPLING_OPTIONS, "there is no sampling setting"),
    ):
        for name in group:
            if name not in known:
                raise unknown(name, known, what)


def _settings(
    known: Mapping[str, Option], given: Mapping[str, Any], suited: Mapping[str, Any], without: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """All options of a group: as given, else as it suits the source, else the default. A name that belongs to
    the recipe (``without``) keeps its default here."""
    chosen = {}
    for name, option in known.items():
        if name in given:
            chosen[name] = option.convert(given[name])
        elif name in suited and name not in without:
            chosen[name] = option.convert(suited[name])
        else:
            chosen[name] = option.default
    return chosen


def passed_on(options: Mapping[str, Option]) -> list[str]:
    """Recipe options that are training settings by name and type: the recipe passes them on. (Of another type, such as
    a clip that is true or false, it is something else that has the same name.)"""
    both = [name for name in options if name in TRAIN_OPTIONS]
    return [name for name in both if options[name].type == TRAIN_OPTIONS[name].type]


def _optional(system: System) -> frozenset[str]:
    """Inputs a recipe can go without: those with a default."""
    parameters = inspect.signature(system.recipe).parameters
    return frozenset(n for n in system.inputs if parameters[n].default is not inspect.Parameter.empty)


def _check_place(config: RunConfig) -> None:
    import torch

    from prefine.policies.lora import need_peft
    from prefine.report.trackers import TRACKERS

    if not DEVICES.fullmatch(config.device):
        raise InputError(f"there is no device {config.device!r}", remedy="give auto, cpu, cuda, cuda:N or mps")
    _cluster(config)
    _check_processes(config)
    if config.device.startswith("cuda") and config.cluster is None and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here", remedy="leave out --device, or give --device cpu")
    for name in config.track:
        if name not in TRACKERS:
            raise unknown(name, TRACKERS, "there is no tracker")
    if config.lora is not None:
        need_peft()


def _check_processes(config: RunConfig) -> None:
    """Processes that ``torchrun`` started have to fit what they are asked to do."""
    import torch

    here = place()
    if here.size == 1:
        return
    if config.cluster is not None:
        raise InputError("--cluster under torchrun", remedy="use one of the two: both divide the work over processes")
    if config.device.startswith("cuda:"):
        raise InputError(
            f"{here.size} processes on one device {config.device}", remedy="give --device cuda: each takes its own GPU"
        )
    gpus = torch.cuda.device_count() if config.device != "cpu" and torch.cuda.is_available() else None
    if gpus is not None and here.local >= gpus:
        raise InputError(
            f"more processes than GPUs on this machine (it has {gpus})",
            remedy=f"start --nproc-per-node {gpus}, or give --device cpu",
        )


def check_directory(out: Path, config: RunConfig, fresh: bool) -> None:
    """The run directory is new, or it holds this very run; and it can be written."""
    parent = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {out}", remedy="choose another directory with --out")
    if not out.exists():
        return
    who = holder(out) if place().rank == 0 else None  # of several processes one has the lock
    if who is not None:
        raise RunStopped(
            f"{out} is in use by {who}", remedy="wait for it to end, stop it, or choose another directory with --out"
        )
    there = {p.name for p in out.iterdir()}
    if not (out / FILE).exists():
        if there - TRACES:
            raise InputError(
                f"{out} holds something else than a run",
                remedy="choose an empty or a new directory with --out; nothing was touched",
            )
        return
    changed = [] if fresh else differences(config.plain(), read_config(out / FILE))
    if changed:
        more = f" (and {len(changed) - 5} more)" if len(changed) > 5 else ""
        raise InputError(
            f"{out} holds a run with another configuration: {'; '.join(changed[:5])}{more}",
            remedy="choose another directory with --out, or start over here with --fresh (what both runs have "
            "in common is not computed again)",
        )


# --- where it runs --------------------------------------------------------------------------------------------


def _place(config: RunConfig) -> None:
    import torch
    from transformers.utils import logging

    if config.threads:
        torch.set_num_threads(config.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def placement(config: RunConfig) -> dict[str, Any]:
    """Where policies are loaded."""
    import torch

    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = automatic if config.device == "auto" else config.device
    found: dict[str, Any] = {"device": f"cuda:{place().local}" if device == "cuda" and processes.together() else device}
    if config.cluster is not None and config.device != "cpu":
        found["device"] = None  # an accelerator where there is one: workers may have it and the driver not
    if config.trust_remote_code:
        found["trust_remote_code"] = True
    return found


def _cluster(config: RunConfig) -> Cluster:
    from prefine.cluster import open_cluster

    return open_cluster(config.cluster, workers=config.workers, threads=config.threads, device=config.device)


def _adapter(config: RunConfig) -> Any:
    if config.lora is None:
        return None
    from prefine.policies.lora import LoraSettings

    return LoraSettings(rank=config.lora.rank, alpha=config.lora.alpha)


def _report(run: Run) -> Path | None:
    """The report; a run whose report cannot be written has not failed."""
    from prefine.report.html import write_report

    try:
        return write_report(run.dir)
    except Exception as error:
        run.progress.say(f"the report could not be written ({error}); `prefine report {run.dir}` tries again")
        return None
