"""The catalogue: every system registers its recipe and its claim here, and is looked up by key or number.

A recipe is a function ``(run, policy, <inputs>, *, <options>)``. Its inputs are named by what they are; the
names in ``INPUTS`` are bound by ``prefine run`` from a world or from the user's own model and data. Its
options are typed, have defaults, and become command-line flags. So the signature is the whole declaration.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from typing import Any

from prefine import facets as vocabulary
from prefine.errors import InputError

INPUTS: Mapping[str, str] = {
    "policy": "a model to train: --model DIR, or the world's base policy",
    "prompts": "prompts to answer: --prompts FILE, or the world's",
    "pairs": "chosen and rejected responses: --data FILE, or labelled by a world's annotator",
    "aspects": 'pairs of several dimensions: --data FILE with a column "dimension", or with scores of both responses '
    "by dimension (chosen_NAME and rejected_NAME), or a world's responses with its attributes",
    "labels": "single responses labelled good or bad: --data FILE (pairs are split), or a world's annotator",
    "lists": "several responses a prompt with scores or ranks: --data FILE, or a world's responses scored by its "
    "annotator",
    "demos": "good responses: --data FILE (chosen responses are taken), or the world's demonstrations",
    "judge": "something that scores responses: --judge NAME, or a world's annotator",
    "preference": "something that compares responses: --judge NAME (scores become Bradley-Terry "
    "probabilities), or the world's preference",
    "verifier": "a check against the gold answer: --judge NAME with answers in --prompts, or the world's",
}
"""What a recipe can ask for by naming a parameter so, and where ``prefine run`` gets it."""


@dataclass(frozen=True)
class System:
    """One entry: a published system (with its number in the field's index) or a building block (without)."""

    key: str
    title: str
    family: str
    recipe: Callable[..., Any]
    number: int | None = None
    paper: str = ""
    facets: Mapping[str, str] = field(default_factory=dict)
    """What it varies, in the words of ``prefine.facets``: only where it differs from DPO."""
    world: str = "assistant"
    """The embedded world it is shown on when no other is asked for."""
    on_worlds: Mapping[str, Any] = field(default_factory=dict)
    """Options and training settings that suit the embedded worlds' tiny models where the defaults, which are
    the paper's and meant for large ones, do not. Shown in run.yaml; flags override them."""
    by_world: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """World -> what suits its base alone, such as the words it has learnt to be asked in; over ``on_worlds``."""
    claim: Claim | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the recipe takes, from its signature."""
        parameters = list(inspect.signature(self.recipe).parameters.values())[1:]
        return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)

    @property
    def optional(self) -> tuple[str, ...]:
        """The inputs it can do without (their default is None)."""
        parameters = inspect.signature(self.recipe).parameters
        return tuple(name for name in self.inputs if parameters[name].default is None)

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """What can be set, from its signature: name -> parameter (annotation and default)."""
        parameters = inspect.signature(self.recipe).parameters
        return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def suited(self, world: str) -> Mapping[str, Any]:
        """Options and training settings for a world or a variant of it (``arithmetic:misled``)."""
        return {**self.on_worlds, **self.by_world.get(world.partition(":")[0], {})}

    @property
    def summary(self) -> str:
        """The first line of the recipe's docstring."""
        return (inspect.getdoc(self.recipe) or "").strip().split("\n")[0]


@dataclass(frozen=True)
class Claim:
    """One falsifiable experiment, stated before it runs: what is compared, and in which direction."""

    statement: str
    baseline: str
    seeds: tuple[int, ...]
    experiment: Callable[..., Mapping[str, float]]
    """(lab, seed) -> figures of one seed. ``lab`` gives a run in a scratch directory and the worlds."""
    holds: Callable[[Mapping[str, Any]], bool]
    """Figures over all seeds, name -> array (one entry a seed) -> does the claim hold?"""


_SYSTEMS: dict[str, System] = {}


def system(
    number: int | None,
    key: str,
    title: str,
    *,
    family: str,
    paper: str = "",
    world: str = "assistant",
    on_worlds: Mapping[str, Any] | None = None,
    by_world: Mapping[str, Mapping[str, Any]] | None = None,
    **facets: str,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a recipe. Keys are those of the field's index: acronyms clash, keys do not. ``facets`` say what
    the system varies, in the words of ``prefine.facets``."""
    vocabulary.check(f"system {key!r}", facets)

    def register(recipe: Callable[..., Any]) -> Callable[..., Any]:
        entry = System(key, title, family, recipe, number, paper, facets, world, on_worlds or {}, by_world or {})
        unknown = [name for name in entry.inputs if name not in INPUTS]
        if unknown:
            raise TypeError(f"recipe {key!r} asks for {unknown}; inputs are {sorted(INPUTS)}")
        if key in _SYSTEMS and _SYSTEMS[key].recipe.__module__ != recipe.__module__:
            raise ValueError(f"two systems have the key {key!r}")
        _SYSTEMS[key] = entry
        return recipe

    return register


def claim(
    key: str,
    *,
    statement: str,
    baseline: str,
    holds: Callable[[Mapping[str, Any]], bool],
    seeds: tuple[int, ...] = (0, 1, 2),
) -> Callable[[Callable[..., Mapping[str, float]]], Callable[..., Mapping[str, float]]]:
    """Attach the claim of a system already registered in the same file."""

    def register(experiment: Callable[..., Mapping[str, float]]) -> Callable[..., Mapping[str, float]]:
        _SYSTEMS[key] = replace(_SYSTEMS[key], claim=Claim(statement, baseline, seeds, experiment, holds))
        return experiment

    return register


@cache
def _import_all() -> None:
    import prefine.systems as package

    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def systems() -> tuple[System, ...]:
    """Every system, published ones by number first, then the building blocks by key."""
    _import_all()
    return tuple(sorted(_SYSTEMS.values(), key=lambda s: (s.number is None, s.number or 0, s.key)))


def find(name: str) -> System:
    """Look a system up by key or by number ("18", "018")."""
    _import_all()
    if name in _SYSTEMS:
        return _SYSTEMS[name]
    if name.isdigit():
        for entry in _SYSTEMS.values():
            if entry.number == int(name):
                return entry
    close = get_close_matches(name, _SYSTEMS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"there is no system {name!r}", remedy=f"{hint}`prefine systems` lists them all")
