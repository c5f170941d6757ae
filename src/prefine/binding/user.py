"""Inputs from the user's own model, data, prompts and judge."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefine import formats, judging
from prefine.artifacts import PolicyHandle, Slates
from prefine.binding.held_out import held_out, place
from prefine.binding.model import check_model, window_of
from prefine.binding.rehearsal import refusal, rehearse
from prefine.binding.roles import InRole
from prefine.catalogue import INPUTS, System, systems
from prefine.config import Inputs, RunConfig
from prefine.errors import InputError
from prefine.evaluation import Yardstick
from prefine.formats.readers import LESSONS
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.slate import Contrast, Slate

if TYPE_CHECKING:
    from prefine.formats import TrainingData

FULL_LR, LORA_LR = 1e-6, 1e-5
"""What suits language models of the usual sizes; adapters want ten times as much."""

MAX_LENGTH, MAX_TOKENS = 1024, 256
ROOMY = 1 << 20
EVAL_PROMPTS = 64
FEW, A_PROMPT, LOOK = 64, 4, 4096
"""Lessons a recipe is shown beforehand, to say what they lack: how many, how many of one prompt, among how many."""


@dataclass(frozen=True)
class UserSource:
    """A model directory (or hub name) with data, prompts and a judge as far as the recipe needs them."""

    config: RunConfig

    @property
    def name(self) -> str:
        return Path(str(self.config.inputs.model)).resolve().name or "model"

    @property
    def given(self) -> Inputs:
        return self.config.inputs

    def wants(self, name: str) -> bool:
        """An optional input is given to the recipe when its flag is there and what it names serves it."""
        if getattr(self.given, WHERE[name]) is None:
            return False
        return name not in LESSONS or any(True for _ in LESSONS[name](self.training(self.data)))

    def check(self, system: System, names: Sequence[str], options: Mapping[str, Any]) -> Inputs:
        needed = [name for name in names if getattr(self.given, WHERE[name]) is None]
        if "prompts" in needed and self.given.data is not None:
            needed.remove("prompts")
        if needed:
            flags = " and ".join(dict.fromkeys(f"--{WHERE[name]}" for name in needed))
            own = (refusal(system, options, frozenset(needed)) or "") if set(needed) <= set(system.optional) else ""
            give = f"{own};" if "--" in own else f"give {flags},"
            raise InputError(
                f"{system.key} needs {needed[0]} ({INPUTS[needed[0]]})",
                remedy=f"{give} or run on an embedded world: prefine run {system.key} --world {system.world}",
            )
        check_model(str(self.given.model), trust_remote_code=self.config.trust_remote_code)
        for name in names:
            if name in CHECK:
                CHECK[name](self, name, system, options)
        self._check_room()
        if self.given.judge is not None:
            _ = self.judge
        if self.given.eval_data is not None:
            _ = self.evaluation
        return self.given.model_copy(update={"eval_prompts": self.given.eval_prompts or EVAL_PROMPTS})

    def settings(self, system: System) -> Mapping[str, Any]:
        """Shorter responses and rows where the model's window is short. (A model that is not there is explained
        by ``check``, which comes next.)"""
        window = ROOMY
        with contextlib.suppress(InputError, AttributeError):
            window = window_of(str(self.given.model)) or ROOMY
        lr = FULL_LR if self.config.lora is None else LORA_LR
        length = min(MAX_LENGTH, window)
        return {"lr": lr, "max_length": length, "max_prompt": length // 2, "max_tokens": min(MAX_TOKENS, window // 2)}

    def start(self, run: Run) -> PolicyHandle:
        return run.policy(str(self.given.model))

    def bind(self, run: Run, name: str, start: PolicyHandle) -> Any:
        return GIVE[name](self, run, start)

    def yardstick(self, run: Run, start: PolicyHandle) -> Yardstick | None:
        """Held-out pairs as far as the data has pairs, and fresh samples on held-out prompts. A policy that judges
        itself is measured by the one it started as."""
        pairs = None
        found = self.held_slates()
        if found and any(True for _ in formats.pairs_of(found)):
            pairs = run.curate(run.slates(found, label="held-out data"), chosen_over_rejected, label="held-out pairs")
        prompts = _first(self.held_prompts(), self.given.eval_prompts or EVAL_PROMPTS)
        slates = run.slates(prompts, label="held-out prompts") if prompts else None
        judge = self._yardstick_judge(start)
        return Yardstick(start, slates, judge, pairs) if pairs is not None or slates is not None else None

    def _yardstick_judge(self, start: PolicyHandle) -> Judge | None:
        """People label what the recipe learns from; their time is not spent on measuring."""
        if self.given.judge is None or judging.asks_people(self.judge):
            return None
        return InRole(self.judge, "score").spoken_by(start)

    def _check_room(self) -> None:
        window, asked = window_of(str(self.given.model)), self.config.sampling.get("max_tokens")
        if window is not None and isinstance(asked, int) and asked >= window:
            raise InputError(
                f"{asked} new tokens do not fit in the model's window of {window}",
                remedy=f"give --max-tokens below {window}",
            )

    # --- what was read ---

    @cached_property
    def data(self) -> TrainingData | None:
        return None if self.given.data is None else self._read(self.given.data)

    @cached_property
    def prompt_data(self) -> TrainingData | None:
        return self.data if self.given.prompts is None else self._read(self.given.prompts)

    @cached_property
    def evaluation(self) -> TrainingData | None:
        return None if self.given.eval_data is None else self._read(self.given.eval_data)

    @cached_property
    def judge(self) -> Judge:
        return judging.find(str(self.given.judge))

    def _read(self, path: str) -> TrainingData:
        return formats.read_for_training(
            path,
            self.given.format,
            on_problem="skip" if self.given.skip_problems else "stop",
            columns=self.given.columns,
        )

    # --- what is held out ---

    @cached_property
    def held(self) -> frozenset[str]:
        """Prompts kept for measuring. With --eval-data nothing is taken from the rest."""
        if self.evaluation is not None:
            return frozenset()
        files = dict.fromkeys(d for d in (self.given.data, self.given.prompts) if d is not None)
        read = {self.given.data: self.data, self.given.prompts: self.prompt_data}
        return frozenset().union(*(held_out(read[f] or ()) for f in files))

    def training(self, data: TrainingData | None) -> Iterator[Slate]:
        return (slate for slate in data or () if place(slate) not in self.held)

    def held_slates(self) -> list[Slate]:
        if self.evaluation is not None:
            return list(self.evaluation)
        return [slate for slate in self.data or () if place(slate) in self.held]

    def held_prompts(self) -> Iterator[Slate]:
        if self.evaluation is not None:
            return iter(self.evaluation.prompts())
        return (slate for slate in _prompts(self.prompt_data) if place(slate) in self.held)

    def prompts(self, run: Run) -> Slates:
        chosen: Iterable[Slate] = (s for s in _prompts(self.prompt_data) if place(s) not in self.held)
        if self.given.train_prompts is not None:
            everything = list(chosen)
            count = min(self.given.train_prompts, len(everything))
            chosen = random.Random(f"prompts {self.config.seed}").sample(everything, count)
        return run.slates(chosen, label="prompts")

    def lessons(self, run: Run, curator: Any) -> Any:
        slates = run.slates(self._few(), label="data")
        return run.curate(slates, curator)

    def _few(self) -> Iterator[Slate]:
        """The data to learn from: all that is not held out, or that of ``--train-prompts`` prompts."""
        if self.given.train_prompts is None:
            return self.training(self.data)
        places = sorted({place(slate) for slate in self.training(self.data)})
        count = min(self.given.train_prompts, len(places))
        kept = frozenset(random.Random(f"prompts {self.config.seed}").sample(places, count))
        return (slate for slate in self.training(self.data) if place(slate) in kept)


# --- curators over data as it came ------------------------------------------------------------------------


def chosen_over_rejected(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return formats.pairs_of(slates)


def good_or_bad(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return formats.labels_of(slates)


def good_ones(slates: Iterable[Slate], rng: random.Random) -> Iterator[Contrast]:
    return formats.demos_of(slates)


# --- by input ---------------------------------------------------------------------------------------------

WHERE: Mapping[str, str] = {
    "policy": "model", "prompts": "prompts", "pairs": "data", "labels": "data", "demos": "data",
    "lists": "data", "aspects": "data",
    "judge": "judge", "preference": "judge", "verifier": "judge",
}  # fmt: skip
"""Input -> the flag that gives it."""

GIVE: Mapping[str, Callable[[UserSource, Run, PolicyHandle], Any]] = {
    "policy": lambda source, run, start: start,
    "prompts": lambda source, run, start: source.prompts(run),
    "pairs": lambda source, run, start: source.lessons(run, chosen_over_rejected),
    "aspects": lambda source, run, start: source.lessons(run, chosen_over_rejected),
    "labels": lambda source, run, start: source.lessons(run, good_or_bad),
    "lists": lambda source, run, start: run.slates(formats.lists_of(source._few()), label="data"),
    "demos": lambda source, run, start: source.lessons(run, good_ones),
    "judge": lambda source, run, start: InRole(source.judge, "score"),
    "preference": lambda source, run, start: InRole(source.judge, "preference"),
    "verifier": lambda source, run, start: InRole(source.judge, "verified"),
}


def _check_lessons(source: UserSource, name: str, system: System, options: Mapping[str, Any]) -> None:
    data = source.data
    assert data is not None
    give = LESSONS[ALIKE.get(name, name)]
    first = _several(give(source.training(data)))
    if first:
        shown = list(islice(formats.lists_of(source.training(data)), FEW)) if name == "lists" else first
        rehearse(system, options, given={name: shown})
        return
    serves = [n for n, give in LESSONS.items() if any(True for _ in give(iter(data)))]
    fitting = [s.key for s in systems() if "policy" in s.inputs and set(s.inputs) - {"policy"} <= set(serves)]
    what = f'holds {" and ".join(serves)} (format "{data.reader.format.name}")' if serves else "teaches nothing"
    use = f"use a system that learns from them ({', '.join(fitting[:6])}), or " if fitting else ""
    raise InputError(
        f"{system.key} learns from {name}, and this data {what}",
        remedy=f"{use}give data with {name}; `prefine data check {source.given.data}` says what it can serve",
        file=source.given.data,
    )


def _check_prompts(source: UserSource, name: str, system: System, options: Mapping[str, Any]) -> None:
    count = sum(1 for s in _prompts(source.prompt_data) if place(s) not in source.held)
    if count == 0:
        raise InputError(
            "there is no prompt to answer here",
            remedy='give a file with prompts, one JSON object a line: {"prompt": "..."}',
            file=source.given.prompts or source.given.data,
        )
    rounds = options.get("rounds", 1)
    if isinstance(rounds, int) and count < rounds:
        raise InputError(
            f"{count} prompts cannot be split over {rounds} rounds", remedy="bring more prompts, or give fewer --rounds"
        )


def _check_answers(source: UserSource, name: str, system: System, options: Mapping[str, Any]) -> None:
    column = str(getattr(source.judge, "reads", "answer"))
    if not any(column in {**s.meta, **s.meta.get("extra", {})} for s in _prompts(source.prompt_data)):
        what = "the gold answer" if column == "answer" else f"the prompt's {column}"
        raise InputError(
            f"{system.key} checks responses against {what}, and no prompt has one",
            remedy=f'give --prompts with {"an" if column == "answer" else "the column"} "{column}" in every row',
            file=source.given.prompts or source.given.data,
        )


ALIKE: Mapping[str, str] = {"aspects": "pairs"}
"""Inputs that are read as others are; what more they need, a recipe says itself when it is shown some."""

CHECK: Mapping[str, Callable[[UserSource, str, System, Mapping[str, Any]], None]] = {
    "prompts": _check_prompts,
    "pairs": _check_lessons,
    "aspects": _check_lessons,
    "labels": _check_lessons,
    "demos": _check_lessons,
    "lists": _check_lessons,
    "verifier": _check_answers,
}


def _prompts(data: TrainingData | None) -> Iterator[Slate]:
    return data.prompts() if data is not None else iter(())


def _several(lessons: Iterable[Contrast]) -> list[Contrast]:
    """A few lessons, of more than a few prompts where there are: not all of them say the same."""
    kept: dict[str, list[Contrast]] = {}
    for contrast in islice(lessons, LOOK):
        own = kept.setdefault(contrast.slate.id, [])
        if len(own) < A_PROMPT:
            own.append(contrast)
        if sum(map(len, kept.values())) >= FEW:
            break
    return [contrast for own in kept.values() for contrast in own]


def _first(slates: Iterable[Slate], count: int) -> list[Slate]:
    """The first ``count`` different prompts."""
    kept: dict[str, Slate] = {}
    for slate in slates:
        kept.setdefault(place(slate), slate)
        if len(kept) == count:
            break
    return list(kept.values())
