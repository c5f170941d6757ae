"""Several methods on the same footing: the same start, seed, data, order of the data and held-out prompts.

A method is a system of the catalogue (``simpo``, ``dpo(beta=0.05)``) or an objective with any wrappers
(``lcpo:dpo``), which the block ``offline`` trains with. Every method is a run of its own under OUT, all on one
store: what they have in common (the base's samples, their labels, the stored reference) is computed once, and a
comparison that was killed goes on where it was. What it came to is OUT/comparison.json and OUT/report.html.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from prefine import launch, objectives, registry
from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import find, systems
from prefine.config import FILE as RUN_FILE
from prefine.errors import InputError, RunStopped
from prefine.evaluation import against, beats, drawn, score_column
from prefine.judging.base import Judge, compares
from prefine.report.record import read_record
from prefine.run import Run
from prefine.store import write_json
from prefine.telling import Progress

FILE = "comparison.json"
ANY_OBJECTIVE = "offline"
START = "start"
EQUAL = ("batch_size", "epochs")
"""Training settings that all methods share unless they are given: equal steps of equal size."""


@dataclass(frozen=True)
class Method:
    """One of the things compared: what it was called, and the system with options that it is."""

    name: str
    system: str
    options: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """
        >>> Method("robust(eps=0.2):dpo", "offline", {}).folder
        'robust-eps-0.2-dpo'
        """
        return re.sub(r"[^\w.]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class Comparison:
    """Methods about which everything is known and nothing has been done."""

    methods: tuple[Method, ...]
    prepared: tuple[launch.Prepared, ...]
    out: Path

    @property
    def store(self) -> Path | None:
        return self.prepared[0].store


def method_of(text: str) -> Method:
    """What a name stands for, or an InputError with near misses among systems, objectives and wrappers."""
    spec = registry.read(re.sub(r"^\s*\d+", lambda number: find(number[0].strip()).key, text))
    own = {s.key: s for s in systems()}
    name = spec.name.lower().replace("_", "-")
    if spec.of is None and name in own and spec.options.keys() <= own[name].options.keys():
        return Method(text, name, spec.options)
    everything = {**own, **objectives.FACTORIES, **objectives.WRAPPERS}
    if name not in objectives.FACTORIES and name not in objectives.WRAPPERS:
        if name in own:
            there = ", ".join(own[name].options) or "none"
            raise InputError(f"{name} has no such option as in {text!r}", remedy=f"its options are: {there}")
        close = get_close_matches(name, everything, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise InputError(
            f"there is no method {text!r}",
            remedy=f"{hint}a method is a system (`prefine systems`) or an objective, as simpo(beta=2.5) or lcpo:dpo",
        )
    objectives.read(spec)  # says what is wrong with its options
    return Method(text, ANY_OBJECTIVE, {"objective": spec.text})


def prepare(names: Sequence[str], values: Mapping[str, Any], out: Path, *, fresh: bool = False) -> Comparison:
    """Check all methods before any of them starts. ``values``: a configuration without system and options."""
    methods = [method_of(name) for name in names]
    folders = [m.folder for m in methods]
    twice = next((m.name for m, f in zip(methods, folders, strict=True) if folders.count(f) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice", remedy="name every method once")
    if len(methods) < 2:
        raise InputError("there is nothing to compare", remedy="name two methods or more: prefine compare dpo simpo")
    for method in methods:
        if find(method.system).family == "reward":
            raise InputError(f"{method.name} makes a reward model, which writes nothing", remedy="leave it out")
    _check_place(out)
    equal, store = _equal(values), Path(os.environ.get("PREFINE_STORE") or out.parent / ".store")
    prepared: list[launch.Prepared] = []
    failed: list[tuple[Method, InputError]] = []
    for method in methods:
        own = {**values, "system": method.system, "options": dict(method.options), "train": equal}
        try:
            done = launch.prepare(own, out=out / method.folder, fresh=True)
            prepared.append(dataclasses.replace(done, store=store, alike=True, fresh=fresh))
        except InputError as error:
            failed.append((method, error))
    if failed:
        raise _said_of(failed, len(methods))
    for one in prepared:
        launch.check_directory(one.out, one.config, fresh)
    return Comparison(tuple(methods), tuple(prepared), out)


def compare(comparison: Comparison, progress: Progress | None = None) -> Path:
    """Run every method, set each against each, and write the report. Running it again goes on or replays."""
    from prefine.report.compare import write_comparison

    count = len(comparison.methods)
    for i, (method, prepared) in enumerate(zip(comparison.methods, comparison.prepared, strict=True), 1):
        if progress is not None:
            progress.say(f"method {i} of {count}: {method.name}, in {prepared.out}")
        launch.launch(prepared, progress)
    write_json(comparison.out / FILE, {**_about(comparison), **_against_each_other(comparison, progress)})
    return write_comparison(comparison.out)


def _check_place(out: Path) -> None:
    """The directory is new, or holds a comparison: anything else in it is left alone."""
    if not out.is_dir() or (out / FILE).exists():
        return
    if (out / RUN_FILE).exists():
        raise InputError(f"{out} holds a run", remedy="choose another directory with --out; nothing was touched")
    runs = {path.parent.name for name in (RUN_FILE, *launch.TRACES) for path in out.glob(f"*/{name}")}
    if {path.name for path in out.iterdir()} - runs - launch.TRACES:
        raise InputError(
            f"{out} holds something else than a comparison",
            remedy="choose an empty or a new directory with --out; nothing was touched",
        )


def _said_of(failed: Sequence[tuple[Method, InputError]], of: int) -> InputError:
    """What is wrong with which method; what is wrong with all of them alike is no method's fault."""
    error = failed[0][1]
    if len(failed) == of and all(other.message == error.message for _, other in failed):
        return error
    said = "; ".join(e.message if m.name in e.message else f"{m.name}: {e.message}" for m, e in failed)
    names = " and ".join(m.name for m, _ in failed)
    return InputError(said, remedy=f"{error.remedy}; or leave out {names}" if error.remedy else f"leave out {names}")


def _equal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings with what all must share filled in."""
    train = dict(values.get("train") or {})
    usual = launch.prepare({**values, "system": ANY_OBJECTIVE, "options": {}}, out=None, look=False).settings
    if "max_steps" in train:
        return {"batch_size": usual.batch_size, **train}
    return {**{name: getattr(usual, name) for name in EQUAL}, **train}


def _about(comparison: Comparison) -> dict[str, Any]:
    first = comparison.prepared[0].config.plain()
    shared = ("batch_size", "max_steps" if first["train"].get("max_steps") is not None else "epochs")
    return {
        "methods": [
            {"name": m.name, "system": m.system, "options": dict(m.options), "folder": m.folder, "figures": _end(p)}
            for m, p in zip(comparison.methods, comparison.prepared, strict=True)
        ],
        "inputs": first["inputs"],
        "seed": comparison.prepared[0].config.seed,
        "train": {name: first["train"][name] for name in shared},
    }


def _end(prepared: launch.Prepared) -> dict[str, Any]:
    """The held-out figures of a method's last policy."""
    rows = read_record(prepared.out).evaluations
    return dict(rows[-1]["figures"]) if rows else {}


def _against_each_other(comparison: Comparison, progress: Progress | None) -> dict[str, Any]:
    """Win rates of everybody against everybody, the start too, on the same held-out prompts."""
    first = comparison.prepared[0]
    run = Run(
        comparison.out, seed=first.config.seed, store=comparison.store, settings=first.settings,
        sampling=first.sampling, placement=launch.placement(first.config), progress=progress,
    )  # fmt: skip
    with run:
        start = first.source.start(run)
        yardstick = first.source.yardstick(run, start)
        if yardstick is None or yardstick.prompts is None or yardstick.judge is None:
            return {"names": [], "wins": [], "errors": []}
        policies = [start, *(_final(run, prepared) for prepared in comparison.prepared)]
        rival = yardstick.judge if compares(yardstick.judge) else None
        asked = (yardstick.prompts, None if rival else yardstick.judge, yardstick.n, yardstick.temperature)
        samples = [drawn(run, policy, *asked) for policy in policies]
        wins = _scored(samples) if rival is None else _judged(run, samples, rival, yardstick.n)
    return {"names": [START, *(m.name for m in comparison.methods)], **_table(wins)}


def _final(run: Run, prepared: launch.Prepared) -> PolicyHandle:
    """The artifact of a method's last policy, under the key it was measured with: its samples are there."""
    rows = read_record(prepared.out).evaluations
    if not rows:
        raise RunStopped(f"{prepared.out} was not measured", remedy="run the same command again")
    key = str(rows[-1]["key"])
    path = run.store.get(key)
    return PolicyHandle(key, path, run.placement) if path is not None else run.policy(prepared.out / "policy")


def _scored(samples: Sequence[Slates]) -> list[list[list[float]]]:
    """each[i][j]: prompt by prompt, whether i's response has the higher score than j's, a tie being half."""
    scores = [[slate.column(score_column(slates)) for slate in slates] for slates in samples]
    return [[[beats(a, b) for a, b in zip(mine, theirs, strict=True)] for theirs in scores] for mine in scores]


def _judged(run: Run, samples: Sequence[Slates], judge: Judge, n: int) -> list[list[list[float]]]:
    """The same from a judge that compares: everybody's responses side by side with everybody else's."""
    each: list[list[list[float]]] = [[[] for _ in samples] for _ in samples]
    for i, j in combinations(range(len(samples)), 2):
        both = run.combine(samples[i], samples[j])
        judged = run.judge(both, judge, role="evaluation", label="held-out judgement")
        each[i][j] = [against(slate, n) for slate in judged]
        each[j][i] = [1 - p for p in each[i][j]]
    return each


def _table(won: Sequence[Sequence[Sequence[float]]]) -> dict[str, list[list[float | None]]]:
    """wins[i][j]: the share of prompts on which i's response beats j's; and its standard error."""
    wins: list[list[float | None]] = [[None] * len(won) for _ in won]
    errors: list[list[float | None]] = [[None] * len(won) for _ in won]
    for i, j in product(range(len(won)), repeat=2):
        each = np.array(won[i][j])
        each = each[np.isfinite(each)]
        if i != j and len(each):
            wins[i][j] = float(each.mean())
            errors[i][j] = _error(each)
    return {"wins": wins, "errors": errors}


def _error(each: np.ndarray) -> float:
    """Standard error of a share. Where all went one way, as if one more had gone each way: that a few prompts agree
    is no certainty.

    >>> round(_error(np.array([1.0, 1.0, 1.0, 0.0])), 3), round(_error(np.array([1.0, 1.0])), 3)
    (0.25, 0.25)
    """
    if len(set(each.tolist()) | {0.5}) == 2:
        each = np.append(each, [0.0, 1.0])
    return float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else 0.0
