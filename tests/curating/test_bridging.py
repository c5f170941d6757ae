"""Bridged pairs, and rewards carried onto contrasts that are there already."""

from __future__ import annotations

import random

from prefine import curating
from prefine.curating.bridging import bridged, edit_requests
from prefine.slate import Candidate, Contrast, Slate, group, pair, scores

RNG = random.Random(0)


def written(chosen: str, rejected: str, **values: float) -> Contrast:
    return pair(Slate("Q:", (Candidate(rejected), Candidate(chosen)), meta={"id": "q", "answer": "4"}), 1, 0, **values)


def edit(text: str, stop: str | None = "end") -> Slate:
    return Slate("edit", (Candidate(text, stop=stop, origin={"role": "editor"}),))


def test_the_editor_sees_request_good_and_worse_answer() -> None:
    (request,) = edit_requests([written(" four", " five")], "{prompt}|{chosen}|{rejected}")
    assert request.prompt == ({"role": "user", "content": "Q:|four|five"},)
    (usual,) = edit_requests([written(" four", " five")])
    text = usual.prompt[0]["content"]  # type: ignore[index]
    assert text.index("Q:") < text.index("four") < text.index("five")


def test_the_edit_is_chosen_and_the_rejected_stays() -> None:
    (made,) = bridged([written(" It is four.", " I say five.")], [edit("I say four.\n")], RNG)
    assert (made.response(0), made.response(1), made.roles) == (" I say four.", " I say five.", (1, -1))
    assert made.prompt(0) == "Q:" and made.slate.meta["answer"] == "4" and not made.slate.feedback


def test_edits_that_change_nothing_or_are_cut_or_empty_are_left_out() -> None:
    pairs = [written("a b", "a c")] * 4
    edits = [edit("a c"), edit("a b", stop="length"), edit("  "), edit("a b")]
    assert [c.response(0) for c in bridged(pairs, edits, RNG)] == ["a b"]


def test_members_get_their_scores() -> None:
    slate = Slate("p", tuple(map(Candidate, "abc"))).with_feedback("score", scores([1.0, 3.0, 2.0]))
    made = list(curating.with_scores()([pair(slate, 1, 0), group(slate, (2, 1, 0), (0, 1, -1))], RNG))
    assert [c.values["score"] for c in made] == [(3.0, 1.0), (2.0, 3.0, 1.0)]


def test_without_scores_gaps_stand_in_and_without_gaps_labels() -> None:
    assert next(iter(curating.with_scores()([written("a", "b", gap=2.5)], RNG))).values["score"] == (2.5, 0.0)
    assert next(iter(curating.with_scores()([written("a", "b")], RNG))).values["score"] == (1.0, 0.0)


def test_one_scale_for_all() -> None:
    """A data set in which one pair has no score is taken as labels altogether."""
    scored = pair(Slate("p", tuple(map(Candidate, "ab"))).with_feedback("score", scores([9.0, 1.0])), 0, 1)
    made = curating.with_scores()([scored, written("a", "b")], RNG)
    assert [c.values["score"] for c in made] == [(1.0, 0.0), (1.0, 0.0)]
