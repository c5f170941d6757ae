"""From slates to contrasts: which lessons data gives, and which it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.errors import InputError
from prefine.formats import FORMATS, demos_of, labels_of, pairs_of, rankings_of, steps_of
from prefine.formats.lessons import faults
from prefine.slate import CHOSEN, REJECTED, Candidate, Contrast, Feedback, Slate, labels, scores, table

PAIR = FORMATS["pairs"].read({"prompt": "2+2=", "chosen": "4", "rejected": "5"})


def rated(*values: float | None, **columns: Feedback) -> Slate:
    """Responses "a", "b", ... with these scores."""
    many = tuple(Candidate(chr(ord("a") + i)) for i in range(len(values)))
    return Slate("q", many, {"score": scores(values), **columns})


def texts(contrasts: object) -> list[str]:
    return ["".join(c.response(i) for i in range(len(c.members))) for c in contrasts]  # type: ignore[attr-defined]


def test_a_pair_gives_a_pair_two_labels_and_a_demonstration() -> None:
    (pair,) = pairs_of([PAIR])
    assert (pair.response(0), pair.response(1), pair.roles) == ("4", "5", (CHOSEN, REJECTED))
    assert [(c.response(0), c.roles[0]) for c in labels_of([PAIR])] == [("4", CHOSEN), ("5", REJECTED)]
    assert texts(demos_of([PAIR])) == ["4"]


def test_best_against_worst() -> None:
    slate = rated(1, 5, 3, None)
    (pair,) = pairs_of([slate])
    assert texts([pair]) == ["ba"] and pair.values == {"gap": 4.0}
    assert list(pairs_of([slate], min_gap=4)) == []


def test_every_pair() -> None:
    slate = rated(1, 5, 3)
    assert texts(pairs_of([slate], every=True)) == ["bc", "ba", "ca"]
    assert texts(pairs_of([slate], every=True, min_gap=2)) == ["ba"]


@given(st.lists(st.none() | st.integers(0, 3), max_size=5))
def test_every_pair_is_every_better_before_every_worse(values: list[int | None]) -> None:
    found = {(c.response(0), c.response(1)) for c in pairs_of([rated(*values)], every=True)}
    letters = "abcde"
    expected = {
        (letters[i], letters[j])
        for i, x in enumerate(values)
        for j, y in enumerate(values)
        if x is not None and y is not None and x > y
    }
    assert found == expected
    best = list(pairs_of([rated(*values)]))
    assert len(best) == bool(expected)


def test_ranks_count_down_and_tables_by_their_mean() -> None:
    ranked = FORMATS["rankings"].read({"prompt": "q", "responses": ["a", "b", "c"], "ranks": [2, 3, 1]})
    assert texts(pairs_of([ranked])) == ["cb"]
    assert texts(rankings_of([ranked])) == ["cab"]
    played = Slate("q", tuple(map(Candidate, "abc")), {"p": table([[0.5, 0.9, 0.1], [0.1, 0.5, 0.2], [0.9, 0.8, 0.5]])})
    assert texts(rankings_of([played])) == ["cab"]


def test_ties_take_part_once_in_rankings() -> None:
    assert texts(rankings_of([rated(1, 2, 2, 0)])) == ["bad"]
    assert list(rankings_of([rated(1, 1)])) == []


def test_rated_responses_are_good_above_their_mean_or_a_threshold() -> None:
    slate = rated(1, 2, 6)
    assert [c.roles[0] for c in labels_of([slate])] == [REJECTED, REJECTED, CHOSEN]
    assert [c.roles[0] for c in labels_of([slate], threshold=1.5)] == [REJECTED, CHOSEN, CHOSEN]
    assert texts(labels_of([rated(1, 1)])) == []


def test_the_usual_column_else_the_one_named() -> None:
    slate = Slate("q", (Candidate("a"), Candidate("b")), {"x": scores([1, 2]), "y": scores([2, 1])})
    with pytest.raises(InputError, match="several feedback columns: x, y"):
        list(pairs_of([slate]))
    assert texts(pairs_of([slate], "y")) == ["ab"]
    with pytest.raises(InputError, match="no feedback column 'z'"):
        list(pairs_of([slate], "z"))


def test_demonstrations_are_good_responses_only() -> None:
    bad = FORMATS["labels"].read({"prompt": "q", "completion": "a", "label": False})
    good = FORMATS["labels"].read({"prompt": "q", "completion": "b", "label": True})
    alone = FORMATS["demos"].read({"prompt": "q", "completion": "c"})
    once = rated(3)  # nothing says whether 3 is good
    assert texts(demos_of([bad, good, alone, once, rated(1, 2)])) == ["b", "c", "b"]


def test_a_worked_answer_is_a_demonstration() -> None:
    gsm = FORMATS["prompts"].read({"question": "q", "answer": "1+1 is <<1+1=2>>2\n#### 2"})
    assert gsm.meta["answer"] == "2"
    assert texts(demos_of([gsm])) == ["1+1 is <<1+1=2>>2\n#### 2"]
    bare = FORMATS["prompts"].read({"question": "q", "answer": "2"})
    assert bare.meta["answer"] == "2" and list(demos_of([bare])) == []


def test_steps_are_scored_after_the_steps_before_them() -> None:
    slate = FORMATS["steps"].read(
        {"prompt": "q", "completions": ["one", "two", "three"], "labels": [True, False, None]}
    )
    assert slate.response(2) == "one\ntwo\nthree"
    found = list(steps_of([slate]))
    assert [(c.members, c.roles, c.context) for c in found] == [((0,), (CHOSEN,), None), ((1,), (REJECTED,), 0)]
    # the whole response is as good as its worst step
    assert [c.roles for c in labels_of([slate])] == [(REJECTED,)]


@pytest.mark.parametrize(
    ("slate", "kind"),
    [
        (FORMATS["pairs"].read({"prompt": "q", "chosen": "a", "rejected": "a"}), "identical"),
        (FORMATS["pairs"].read({"prompt": "q", "chosen": "", "rejected": "a"}), "empty-response"),
        (FORMATS["pairs"].read({"prompt": "q", "chosen": "a", "rejected": " \n"}), "empty-response"),
        (FORMATS["pairs"].read({"prompt": " ", "chosen": "a", "rejected": "b"}), "empty-prompt"),
        (rated(1, 1, 1), "tie"),
    ],
)
def test_what_teaches_nothing_is_a_fault_and_no_pair(slate: Slate, kind: str) -> None:
    assert kind in {fault.kind for fault in faults(slate)}
    assert list(pairs_of([slate])) == []
    assert all(fault.remedy for fault in faults(slate))


def test_odd_but_usable() -> None:
    against = rated(1, 2, preferred=labels([True, False]))
    assert [f.kind for f in faults(against)] == ["against"] and texts(pairs_of([against])) == ["ab"]
    prompt = "a question of some length?"
    repeats = FORMATS["pairs"].read({"prompt": prompt, "chosen": prompt + " a", "rejected": "b"})
    assert [f.kind for f in faults(repeats)] == ["repeats-prompt"]
    assert faults(PAIR) == []


def test_contrasts_survive_storage() -> None:
    slate = rated(1, 5, 3)
    for contrast in [*pairs_of([slate], every=True), *labels_of([slate]), *rankings_of([slate])]:
        again = Contrast.from_json(contrast.to_json())
        assert texts([again]) == texts([contrast]) and again.roles == contrast.roles
