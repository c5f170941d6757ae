"""Curators: judged slates in, contrasts out, a family a file.

extremes     extremes, max_min, max_random, max_max, max_min_p, random_pairs, best_worst_of, sweet_spot
pairs        all_pairs, ranked
verified     verified_pairs, correct_pairs, vote_pairs; checked_else: checks where there are answers, votes
             elsewhere; concentrated keeps slates whose votes agree
process      process_pairs, step_points: for a process reward model
win_rates    win_rate_pairs
lengths      length_balanced, length_matched
points       points, labelled (for KTO), and over another curator: as_points, mismatched
replay       replay_mix over another curator: some original contrasts among the new ones
temporal     temporal_past, temporal_future: pairs across models

``find("length-balanced")`` gives a factory by name, ``make("extremes", by="gold")`` the curator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefine import registry
from prefine.curating.base import Curator
from prefine.curating.extremes import (
    best_worst_of,
    extremes,
    max_max,
    max_min,
    max_min_p,
    max_random,
    random_pairs,
    sweet_spot,
)
from prefine.curating.lengths import balanced_penalty, length_balanced, length_matched
from prefine.curating.pairs import all_pairs, ranked
from prefine.curating.points import as_points, labelled, mismatched, points
from prefine.curating.process import process_pairs, step_points
from prefine.curating.replay import mix, replay_counts, replay_mix
from prefine.curating.temporal import future_pair, past_pair, temporal_future, temporal_past
from prefine.curating.verified import checked_else, concentrated, correct_pairs, verified_pairs, vote_pairs
from prefine.curating.win_rates import win_rate_pairs, win_rates

FACTORIES: Mapping[str, Callable[..., Curator]] = {
    "extremes": extremes,
    "max-min": max_min,
    "max-random": max_random,
    "max-max": max_max,
    "max-min-p": max_min_p,
    "random": random_pairs,
    "best-worst-of": best_worst_of,
    "sweet-spot": sweet_spot,
    "all-pairs": all_pairs,
    "ranked": ranked,
    "verified": verified_pairs,
    "correct": correct_pairs,
    "votes": vote_pairs,
    "process": process_pairs,
    "win-rates": win_rate_pairs,
    "length-balanced": length_balanced,
    "length-matched": length_matched,
    "points": points,
    "labelled": labelled,
    "temporal-past": temporal_past,
    "temporal-future": temporal_future,
}
"""By name, for the command line and YAML. (Curators over other curators are for recipes.)"""


def find(name: str) -> Callable[..., Curator]:
    """The factory of that name; its signature says what can be set."""
    factory: Callable[..., Curator] = registry.look_up("curator", FACTORIES, name)
    return factory


def make(name: str, **options: Any) -> Curator:
    """The curator of that name with these options, checked."""
    curator: Curator = registry.make("curator", find(name), name, options)
    return curator


__all__ = [
    "FACTORIES",
    "Curator",
    "all_pairs",
    "as_points",
    "balanced_penalty",
    "best_worst_of",
    "checked_else",
    "concentrated",
    "correct_pairs",
    "extremes",
    "find",
    "future_pair",
    "labelled",
    "length_balanced",
    "length_matched",
    "make",
    "max_max",
    "max_min",
    "max_min_p",
    "max_random",
    "mismatched",
    "mix",
    "past_pair",
    "points",
    "process_pairs",
    "random_pairs",
    "ranked",
    "replay_counts",
    "replay_mix",
    "step_points",
    "sweet_spot",
    "temporal_future",
    "temporal_past",
    "verified_pairs",
    "vote_pairs",
    "win_rate_pairs",
    "win_rates",
]
