"""Objectives: pure functions from scores to a loss, one small family a file.

measures     what a response is worth: LogRatio, LogProbability, LogOdds, Reward
links        how a margin becomes a loss: logistic, hinge, squared, saturating, Smoothed
margins      constants of a pair: LengthGap, ValueGap, Valued
pairwise     the pair kernel ``Pairs``: dpo, ipo, simpo, length_regularised, bradley_terry
regression   a target for every response, ``Regression``: sppo, sppo_single
pointwise    labelled responses, ``Points``: kto, binary_cross_entropy
likelihood   ``Likelihood``: sft, likelihood; with a pair loss: regularised, scpo, orpo
combine      add, scale, weighted, smoothed, soft_labels

``find("simpo")`` gives a factory by name, ``make("simpo", beta=2.5)`` the objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefine import registry
from prefine.objectives.combine import add, scale, smoothed, soft_labels, weighted
from prefine.objectives.likelihood import Likelihood, likelihood, orpo, regularised, scpo, sft
from prefine.objectives.links import Smoothed, hinge, logistic, saturating, squared
from prefine.objectives.margins import LengthGap, Valued, ValueGap
from prefine.objectives.measures import LogOdds, LogProbability, LogRatio, Measure, Reward
from prefine.objectives.pairwise import Pairs, bradley_terry, dpo, ipo, length_regularised, simpo
from prefine.objectives.pointwise import Points, binary_cross_entropy, kto
from prefine.objectives.regression import Regression, sppo, sppo_single
from prefine.objectives.scores import Loss, Objective, Scores, Term, traits

FACTORIES: Mapping[str, Callable[..., Objective]] = {
    "dpo": dpo,
    "ipo": ipo,
    "simpo": simpo,
    "length-regularised": length_regularised,
    "bradley-terry": bradley_terry,
    "sppo": sppo,
    "sppo-single": sppo_single,
    "kto": kto,
    "binary-cross-entropy": binary_cross_entropy,
    "sft": sft,
    "likelihood": likelihood,
    "regularised": regularised,
    "scpo": scpo,
    "orpo": orpo,
}
"""By name, for the command line and YAML."""


def find(name: str) -> Callable[..., Objective]:
    """The factory of that name; its signature says what can be set."""
    factory: Callable[..., Objective] = registry.look_up("objective", FACTORIES, name)
    return factory


def make(name: str, **options: Any) -> Objective:
    """The objective of that name with these options, checked."""
    objective: Objective = registry.make("objective", find(name), name, options)
    return objective


__all__ = [
    "FACTORIES",
    "LengthGap",
    "Likelihood",
    "LogOdds",
    "LogProbability",
    "LogRatio",
    "Loss",
    "Measure",
    "Objective",
    "Pairs",
    "Points",
    "Regression",
    "Reward",
    "Scores",
    "Smoothed",
    "Term",
    "ValueGap",
    "Valued",
    "add",
    "binary_cross_entropy",
    "bradley_terry",
    "dpo",
    "find",
    "hinge",
    "ipo",
    "kto",
    "length_regularised",
    "likelihood",
    "logistic",
    "make",
    "orpo",
    "regularised",
    "saturating",
    "scale",
    "scpo",
    "sft",
    "simpo",
    "smoothed",
    "soft_labels",
    "sppo",
    "sppo_single",
    "squared",
    "traits",
    "weighted",
]
