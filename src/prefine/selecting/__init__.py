"""Selectors: which rows are worth a label, a family a file.

base         Selector, Budget, split (a budget over rounds), Part and Remaining of a pool, Then (one after the other),
             chosen (run.select with what the selector has to see of the models)
ranking      smallest, largest, middle, tails, random: which of some numbers to keep
scores       at_random, top, entropy
margins      small_margin, certainty: by the margin of the implicit reward
optimal      d_optimal: greedy D-optimal design over features
confidence   upper_confidence, uncertain, borda: bounds from dropout on the last layer
responses    representative, random_responses: a few of every prompt's responses
dueling      AE-Borda, the contextual dueling bandit itself
features     the judges that these read: Features, Doubt

``read("entropy(budget=25%):certainty(budget=50%)")`` gives a selector from its text: one, or one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefine import registry
from prefine.selecting.base import (
    Budget,
    Part,
    Remaining,
    Selector,
    Then,
    Views,
    chosen,
    differing,
    everything,
    need,
    split,
    unseen,
    view_of,
    with_budget,
)
from prefine.selecting.confidence import borda, one_of_each, uncertain, upper_confidence
from prefine.selecting.features import Doubt, Features
from prefine.selecting.margins import certainty, small_margin, surprises
from prefine.selecting.optimal import d_optimal
from prefine.selecting.responses import random_responses, representative
from prefine.selecting.scores import Likelihood, at_random, entropy, top


def _everything() -> Selector:
    """All rows: nothing is spared."""
    return everything


FACTORIES: Mapping[str, Callable[..., Selector]] = {
    "all": _everything,
    "random": at_random,
    "top": top,
    "small-margin": small_margin,
    "certainty": certainty,
    "entropy": entropy,
    "d-optimal": d_optimal,
    "upper-confidence": upper_confidence,
    "uncertain": uncertain,
    "borda": borda,
    "representative": representative,
    "random-responses": random_responses,
}
"""By name, for the command line and YAML."""


def find(name: str) -> Callable[..., Selector]:
    """The factory of that name; its signature says what can be set."""
    factory: Callable[..., Selector] = registry.look_up("selector", FACTORIES, name)
    return factory


def read(part: str | Mapping[str, Any]) -> Selector:
    """The selector that a text or a mapping names; ``first:second`` is one among what the other kept.

    >>> read("small-margin:budget=50%").budget.of(10)
    5
    """
    return _made(registry.read(part))


def _made(spec: registry.Spec) -> Selector:
    here: Selector = registry.make("selector", find(spec.name), spec.name, spec.options)
    return here if spec.of is None else Then(here, _made(spec.of))


__all__ = [
    "FACTORIES",
    "Budget",
    "Doubt",
    "Features",
    "Likelihood",
    "Part",
    "Remaining",
    "Selector",
    "Then",
    "Views",
    "at_random",
    "borda",
    "certainty",
    "chosen",
    "d_optimal",
    "differing",
    "entropy",
    "everything",
    "find",
    "need",
    "one_of_each",
    "random_responses",
    "read",
    "representative",
    "small_margin",
    "split",
    "surprises",
    "top",
    "uncertain",
    "unseen",
    "upper_confidence",
    "view_of",
    "with_budget",
]
