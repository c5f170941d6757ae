"""Inputs from an embedded world: its prompts, its annotator's labels, its base policy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from prefine import curating, judging
from prefine.artifacts import Contrasts, PolicyHandle, Slates
from prefine.binding.rehearsal import rehearse
from prefine.binding.roles import InRole
from prefine.catalogue import INPUTS, System
from prefine.config import Inputs, RunConfig
from prefine.errors import InputError
from prefine.evaluation import Yardstick, every_candidate
from prefine.judging.annotators import BradleyTerry
from prefine.judging.base import Judge
from prefine.run import Run
from prefine.slate import Candidate, Slate
from prefine.worlds import NAMES, find_world
from prefine.worlds.base import World

TRAINING: Mapping[str, Any] = {"lr": 1e-3, "batch_size": 32, "epochs": 2.0}
"""What suits base policies of a few hundred thousand weights."""

TRAIN_PROMPTS, EVAL_PROMPTS, CANDIDATES = 256, 128, 4
PERFECT = "perfect"


@dataclass(frozen=True)
class WorldSource:
    """A world with everything it brings."""

    config: RunConfig
    name: str

    @cached_property
    def world(self) -> World:
        return find_world(self.name)

    @cached_property
    def inputs(self) -> Inputs:
        given = self.config.inputs
        return replace_in(
            given,
            world=self.name,
            annotator=given.annotator or (PERFECT if given.judge is None else None),
            train_prompts=given.train_prompts or self._most("train", TRAIN_PROMPTS),
            eval_prompts=given.eval_prompts or self._most("test", EVAL_PROMPTS),
            candidates=given.candidates or CANDIDATES,
        )

    def wants(self, name: str) -> bool:
        """A world gives optional inputs only where they are asked for."""
        return False

    def check(self, system: System, names: Sequence[str], options: Mapping[str, Any]) -> Inputs:
        annotator = self.inputs.annotator
        if self.config.inputs.judge is not None:
            if self.config.inputs.annotator is not None:
                raise InputError("--annotator and --judge contradict each other", remedy="leave out one of them")
            _ = self.judge
        elif annotator not in self.world.annotators:
            raise InputError(
                f"world {self.name!r} has no annotator {annotator!r}",
                remedy=f"its annotators are {', '.join(sorted(self.world.annotators))}",
            )
        if not _scores_text(self.world):
            rehearse(system, options, without=frozenset(system.inputs) - {*names, "policy"}, text=False)
        for split, count in (("train", self.inputs.train_prompts), ("test", self.inputs.eval_prompts)):
            self.world.prompts(split, count or 1, self.config.seed)  # says how many there are
        for name in names:
            lacking = MISSING.get(name, lambda world: False)
            if lacking(self.world) and not (name == "verifier" and self.config.inputs.judge):
                able = ", ".join(w for w in NAMES if _offers(w, name))
                raise InputError(
                    f"{system.key} needs {name} ({INPUTS[name]}), and world {self.name!r} has none",
                    remedy=f"worlds that have: {able or 'none'}",
                )
        return self.inputs

    def settings(self, system: System) -> Mapping[str, Any]:
        return {**TRAINING, "max_tokens": self.world.max_tokens, **system.suited(self.name)}

    def start(self, run: Run) -> PolicyHandle:
        stage = run.progress.stage(f"base policy of the world {self.name} (made once)")
        try:
            return run.policy(self.world.base(run.store.root / "worlds"))
        finally:
            stage.end()

    def bind(self, run: Run, name: str, start: PolicyHandle) -> Any:
        return GIVE[name](self, run, start)

    def yardstick(self, run: Run, start: PolicyHandle) -> Yardstick:
        """Fresh samples on test prompts under the gold reward, and pairs that the gold reward orders."""
        count = self.inputs.eval_prompts or 1
        prompts = run.slates(self.world.prompts("test", count, 0), label="test prompts")
        pairs = None
        if _scores_text(self.world):
            answers = self.sampled(run, start, prompts, label="held-out responses")
            judged = run.judge(answers, self.world.gold, role="evaluation", label="held-out judgement")
            pairs = _or_none(run, judged)
        return Yardstick(start, prompts, self.world.gold, pairs)

    # --- what the table below is made of ---

    @cached_property
    def judge(self) -> Judge | None:
        """The judge that takes the annotator's place, where one is named."""
        named = self.config.inputs.judge
        return None if named is None else self.world.judges.get(named) or judging.find(named)

    @property
    def annotator(self) -> Judge:
        named = self.world.annotators[self.inputs.annotator or PERFECT]
        return named if self.judge is None else InRole(self.judge, "score")

    def prompts(self, run: Run) -> Slates:
        drawn = self.world.prompts("train", self.inputs.train_prompts or 1, self.config.seed)
        return run.slates(drawn, label="train prompts")

    def sampled(self, run: Run, start: PolicyHandle, prompts: Slates, label: str = "responses to label") -> Slates:
        return run.sample(start, prompts, n=self.inputs.candidates or CANDIDATES, role="start", label=label)

    def labelled(self, run: Run, start: PolicyHandle, curator: curating.Curator) -> Contrasts:
        """What the annotator says of the base policy's responses; ties are left out."""
        return run.curate(self.judged(run, start), curator)

    def judged(self, run: Run, start: PolicyHandle) -> Slates:
        """Responses of the base policy with the annotator's column."""
        return run.judge(self.sampled(run, start, self.prompts(run)), self.annotator)

    def aspects(self, run: Run, start: PolicyHandle) -> Contrasts:
        """The annotator's pairs, with a column for every attribute of the world."""
        slates = self.judged(run, start)
        for judge in self.world.attributes.values():
            slates = run.judge(slates, judge)
        return run.curate(slates, curating.extremes("score"))

    def demonstrations(self, run: Run) -> Contrasts:
        slates = run.slates(_shown(self.world, self.prompts(run), self.config.seed), label="demonstrations")
        return run.curate(slates, every_candidate)

    def preference(self) -> Judge:
        """The world's own, unless another annotator or a judge was asked for."""
        if self.judge is not None:
            return InRole(self.judge, "preference")
        usual = self.inputs.annotator == PERFECT
        return self.world.preference if usual and self.world.preference else BradleyTerry(self.annotator)

    def verifier(self) -> Judge | None:
        return self.world.verifier if self.judge is None else InRole(self.judge, "verified")

    def _most(self, split: str, wanted: int) -> int:
        """As many prompts as wanted, or as there are."""
        while wanted > 1:
            try:
                self.world.prompts(split, wanted, 0)
                return wanted
            except InputError:
                wanted //= 2
        return wanted


Give = Callable[[WorldSource, Run, PolicyHandle], Any]

GIVE: Mapping[str, Give] = {
    "policy": lambda source, run, start: start,
    "prompts": lambda source, run, start: source.prompts(run),
    "pairs": lambda source, run, start: source.labelled(run, start, curating.extremes("score")),
    "aspects": lambda source, run, start: source.aspects(run, start),
    "labels": lambda source, run, start: source.labelled(run, start, curating.as_points(curating.extremes("score"))),
    "lists": lambda source, run, start: source.judged(run, start),
    "demos": lambda source, run, start: source.demonstrations(run),
    "judge": lambda source, run, start: source.annotator,
    "preference": lambda source, run, start: source.preference(),
    "verifier": lambda source, run, start: source.verifier(),
}

MISSING: Mapping[str, Callable[[World], bool]] = {
    "aspects": lambda world: not world.attributes,
    "demos": lambda world: world.demonstrate is None,
    "verifier": lambda world: world.verifier is None,
}
"""Inputs that not every world has."""


def replace_in(inputs: Inputs, **values: Any) -> Inputs:
    return inputs.model_copy(update=values)


def _offers(world: str, name: str) -> bool:
    try:
        return not MISSING[name](find_world(world))
    except (ImportError, InputError):
        return False


def _shown(world: World, prompts: Iterable[Slate], seed: int) -> Iterator[Slate]:
    assert world.demonstrate is not None
    for slate in prompts:
        text = world.demonstrate(slate, random.Random(f"demonstrations {seed} {slate.id}"))
        yield replace(slate, candidates=(Candidate(text),))


def _scores_text(world: World) -> bool:
    """Whether the base policy is a language model, whose responses are worth scoring as held-out pairs."""
    return world.max_tokens > 1


def _or_none(run: Run, judged: Slates) -> Contrasts | None:
    try:
        return run.curate(judged, curating.extremes("gold"), label="held-out pairs")
    except InputError:  # all alike under the gold reward: no pair to rank
        return None
