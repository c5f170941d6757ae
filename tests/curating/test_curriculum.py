"""Curricula: the order and the stages; and values that the data brings beside its responses."""

from __future__ import annotations

import random

import pytest

from prefine.curating.curriculum import curriculum
from prefine.curating.with_values import has, with_values
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Feedback, Slate, pair, scores, table


def of(chosen: str, rejected: str, score: tuple[float, float] | None = None, **extra: object) -> Contrast:
    slate = Slate("?", (Candidate(chosen), Candidate(rejected)), meta={"extra": extra})
    return pair(slate if score is None else slate.with_feedback("score", scores(score)), 0, 1)


ROWS = [of("bbbb", "bbbc", (3.0, 2.5)), of("aa", "z", (3.0, 0.0)), of("cccccccc", "d", (3.0, 1.0))]


def order(spec: str) -> list[str]:
    made = curriculum(spec)
    return [c.response(0)[0] for i in range(made.stages) for c in made.stage(i)(ROWS, random.Random(0))]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [("plain", "bac"), ("margin", "acb"), ("margin(hard_first=true)", "bca"), ("length", "abc"), ("similarity", "acb"),
     ("margin(stages=3)", "acb"), ("shuffled", "bac")],
)  # fmt: skip
def test_the_order(spec: str, wanted: str) -> None:
    assert "".join(order(spec)) == wanted


def test_stages_are_disjoint_or_go_on_with_what_came_before() -> None:
    apart, kept = curriculum("length(stages=3)"), curriculum("length(stages=3,keep=true)")
    sizes = [[len(list(c.stage(i)(ROWS, random.Random(0)))) for i in range(3)] for c in (apart, kept)]
    assert sizes == [[1, 1, 1], [1, 2, 3]]
    assert apart.shuffles and not curriculum("length").shuffles
    with pytest.raises(InputError, match="stages"):
        list(curriculum("length(stages=9)").stage(0)(ROWS, random.Random(0)))


def test_an_order_by_what_is_not_there_says_so() -> None:
    with pytest.raises(InputError) as error:
        list(curriculum("value(name=level)").stage(0)(ROWS, random.Random(0)))
    assert "level" in error.value.message


def values(name: str, *rows: Contrast, **columns: str) -> list[object]:
    return [c.values[name] for c in with_values(name, columns)(list(rows), random.Random(0))]


def test_values_are_found_wherever_they_are() -> None:
    own = pair(Slate("?", (Candidate("a"), Candidate("b"))), 0, 1, weight=0.3)
    assert values("weight", own, of("a", "b", weight=0.5)) == [0.3, 0.5]
    assert values("score", of("a", "b", (2.0, 1.0))) == [(2.0, 1.0)]
    assert values("margin", of("a", "b", (2.0, 0.5))) == [1.5]
    assert values("weight", of("a", "b", trust=0.7), weight="trust") == [0.7]
    compared = Slate("?", (Candidate("a"), Candidate("b"))).with_feedback("preference", table([[0.5, 0.9], [0.1, 0.5]]))
    assert values("preference", pair(compared, 1, 0)) == [0.1]


def test_people_are_numbered() -> None:
    named = Slate("?", (Candidate("a"), Candidate("b"))).with_feedback("annotator", Feedback("id", ("Bo", "Bo")))
    assert values("annotator", of("a", "b", annotator="Cy"), pair(named, 0, 1), of("a", "b", annotator="Al")) == [
        2,
        1,
        0,
    ]
    assert values("annotator", of("a", "b", annotator=1042), of("a", "b", annotator=7)) == [1, 0]


def test_what_is_missing_is_named_with_what_would_help() -> None:
    assert not has(ROWS[0], "preference")
    with pytest.raises(InputError) as error:
        values("weight", of("a", "b", weight=0.5), of("a", "b", wait=0.5))
    assert (
        "weight" in error.value.message and "wait" in error.value.message and "--values weight=" in error.value.remedy
    )
