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
guided       verifier_guided: pairs that a verifier makes of rollouts; unsolved: the prompts worth asking again
tags         Shifts: pairs by domain and generator
distinct     slates without the same response twice
columns      with_columns over another curator: columns of the slates as values; with_scores: or what stands in for
             scores; need: an error where they are missing
groups       scored_groups, leveled_groups: whole groups with scores or preference levels
rollouts     rollouts: samples with their rewards; with_moments: what their advantages are whitened by
strengths    strongest_weakest by several annotators' votes
factual      factual_order: pairs with flags of hallucination
hard_negatives  hard_negatives: reference answers against the likeliest wrong one of unsolved problems
best_against_worse  the best, if good enough, against each clearly worse one; best_of: the best one to imitate
dissatisfaction  what users disliked, from labels or conversations, against fresh answers shown the complaint
user_content  from users' texts to questions with a reference
feedback     played_user: feedback in words as what to learn to say
temporal     temporal_past, temporal_future: pairs across models
companions   across (one policy against another), accompanied and with_samples (own samples beside a pair), part
statistical  accepted (statistical rejection sampling), drawn_pairs
dimensions   of_dimension: one dimension's pairs out of several
key_phrases  degraded: variants with growing parts of the key content gone, over contrasts
logged_pairs beside_samples, both_orders: logged pairs beside fresh samples, for doubly robust estimates
kinds        both_kinds: labels as they are, if some are good and some bad

refinements  lessons in refining, over pairs: with_refinements, refinement_demos; last_over_first turn
steering     pairs by contrasting principles, in slots: steering_views, steered
uncertain    second opinions with dropout: ends_pool, both_ways (lessons for a pairwise model), second_opinion
sets         accepted and rejected sets: sets, over labels: gathered
internal     internal_pairs, verdict_lessons: the questions a model is asked about its own responses, as lessons
anchors      with_anchors, demonstrated, positive_unlabelled: one good answer beside samples
covering     the best against a few that cover the rest: covering
clustering   k_means, k_medoids, representative: plain functions of vectors and distances
vectors      responses as vectors: words, hidden states, an encoder
staged       best_against_each, and stages of it from clear to close: local_stage, global_stage
embedding    embedded: the prompt's vector as values
multi_level  one response under two prompts, two pairs: multi_level (over pairs)
goals        relabelled: every pair twice, under the score of each response as the goal; aimed: one goal for all
logps        with_logps: log-probabilities under other policies as values
rationales   with_rationales: the reason beside its pair, from the data, from aspects or written by a model

``find("length-balanced")`` gives a factory by name, ``make("extremes", by="gold")`` the curator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefine import registry
from prefine.curating.anchors import demonstrated, positive_unlabelled, with_anchors
from prefine.curating.base import Curator
from prefine.curating.best_against_worse import best_against_worse, best_of
from prefine.curating.bridging import bridged, edit_requests
from prefine.curating.columns import need, with_columns, with_scores
from prefine.curating.companions import accompanied, across, part, prompts_of, with_samples
from prefine.curating.covering import covering
from prefine.curating.dimensions import check_dimensions, of_dimension
from prefine.curating.distinct import distinct
from prefine.curating.embedding import embedded
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
from prefine.curating.factual import factual_order
from prefine.curating.goals import aimed, goals, relabelled
from prefine.curating.groups import leveled_groups, scored_groups
from prefine.curating.guided import unsolved, verifier_guided
from prefine.curating.internal import internal_pairs, verdict_lessons
from prefine.curating.key_phrases import degraded
from prefine.curating.kinds import both_kinds
from prefine.curating.lengths import balanced_penalty, length_balanced, length_matched
from prefine.curating.logged_pairs import beside_samples, both_orders
from prefine.curating.logps import with_logps
from prefine.curating.multi_level import multi_level
from prefine.curating.pairs import all_pairs, ranked
from prefine.curating.points import as_points, labelled, mismatched, points
from prefine.curating.process import process_pairs, step_points
from prefine.curating.rationales import with_rationales
from prefine.curating.refinements import last_over_first, refinement_demos, with_refinements
from prefine.curating.replay import mix, replay_counts, replay_mix
from prefine.curating.rollouts import rollouts, with_moments
from prefine.curating.sets import gathered, sets
from prefine.curating.staged import best_against_each, global_stage, local_stage, with_likelihood_gap
from prefine.curating.statistical import accept, accepted, alone, drawn_pairs
from prefine.curating.steering import steered, steering_views
from prefine.curating.strengths import strongest_weakest
from prefine.curating.temporal import future_pair, past_pair, temporal_future, temporal_past
from prefine.curating.uncertain import both_ways, ends_pool, second_opinion
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
    "verifier-guided": verifier_guided,
    "win-rates": win_rate_pairs,
    "scored-groups": scored_groups,
    "leveled-groups": leveled_groups,
    "rollouts": rollouts,
    "strongest-weakest": strongest_weakest,
    "sets": sets,
    "covering": covering,
    "positive-unlabelled": positive_unlabelled,
    "best-against-each": best_against_each,
    "best-against-worse": best_against_worse,
    "length-balanced": length_balanced,
    "length-matched": length_matched,
    "points": points,
    "labelled": labelled,
    "temporal-past": temporal_past,
    "temporal-future": temporal_future,
    "across": across,
    "drawn-pairs": drawn_pairs,
    "ends-pool": ends_pool,
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
    "accept",
    "accepted",
    "accompanied",
    "across",
    "aimed",
    "all_pairs",
    "alone",
    "as_points",
    "balanced_penalty",
    "beside_samples",
    "best_against_each",
    "best_against_worse",
    "best_of",
    "best_worst_of",
    "both_kinds",
    "both_orders",
    "both_ways",
    "bridged",
    "check_dimensions",
    "checked_else",
    "concentrated",
    "correct_pairs",
    "covering",
    "degraded",
    "demonstrated",
    "distinct",
    "drawn_pairs",
    "edit_requests",
    "embedded",
    "ends_pool",
    "extremes",
    "factual_order",
    "find",
    "future_pair",
    "gathered",
    "global_stage",
    "goals",
    "internal_pairs",
    "labelled",
    "last_over_first",
    "length_balanced",
    "length_matched",
    "leveled_groups",
    "local_stage",
    "make",
    "max_max",
    "max_min",
    "max_min_p",
    "max_random",
    "mismatched",
    "mix",
    "multi_level",
    "need",
    "of_dimension",
    "part",
    "past_pair",
    "points",
    "positive_unlabelled",
    "process_pairs",
    "prompts_of",
    "random_pairs",
    "ranked",
    "refinement_demos",
    "relabelled",
    "replay_counts",
    "replay_mix",
    "rollouts",
    "scored_groups",
    "second_opinion",
    "sets",
    "steered",
    "steering_views",
    "step_points",
    "strongest_weakest",
    "sweet_spot",
    "temporal_future",
    "temporal_past",
    "unsolved",
    "verdict_lessons",
    "verified_pairs",
    "verifier_guided",
    "vote_pairs",
    "win_rate_pairs",
    "win_rates",
    "with_anchors",
    "with_columns",
    "with_likelihood_gap",
    "with_logps",
    "with_moments",
    "with_rationales",
    "with_refinements",
    "with_samples",
    "with_scores",
]
