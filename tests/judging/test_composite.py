"""Weighted sums of judges: scales, abstentions, the text of the command line."""

from __future__ import annotations

import numpy as np
import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.judging.base import Compared, Scored
from prefine.judging.checks import Length
from prefine.judging.composite import SCALES, Composite, composite
from prefine.slate import Candidate, Feedback, Slate

SLATE = Slate("p", tuple(map(Candidate, ("a", "bb cc", "ddd", "e"))))


def said(*values: float | None) -> Scored:
    return Scored(lambda slate: list(values))


def test_a_weighted_sum_with_its_parts_beside_it() -> None:
    judge = composite([("x", said(1, 2, 3, 4), 2.0), ("y", said(0.5, 0, 0, 1), -1.0)])
    columns = judge([SLATE])[0]
    assert list(columns) == ["score", "score:x", "score:y"], "the sum comes first: it is what counts as the answer"
    assert columns["score"].values == (1.5, 4.0, 6.0, 7.0)
    assert columns["score:y"].values == (0.5, 0.0, 0.0, 1.0)


def test_z_scores_are_those_of_numpy_over_what_was_scored() -> None:
    values = [3.0, None, 5.0, 10.0]
    known = np.array([3.0, 5.0, 10.0])
    expected = (known - known.mean()) / known.std()
    found = SCALES["z"](values)
    assert found[1] is None
    assert [v for v in found if v is not None] == pytest.approx(expected.tolist())
    assert SCALES["z"]([2.0, 2.0]) == [0.0, 0.0]
    assert SCALES["z"]([None]) == [None]


def test_ranks_do_not_depend_on_the_unit() -> None:
    assert SCALES["rank"]([1.0, 100.0, 2.0]) == SCALES["rank"]([-3.0, 0.0, -2.0]) == [0.0, 1.0, 0.5]
    assert SCALES["rank"]([7.0]) == [0.5]


def test_a_scale_makes_judges_of_other_units_comparable() -> None:
    judge = composite([("big", said(1000, 0, 500, 500), 1.0), ("small", said(0, 0.002, 0.001, 0.001), 1.0)], "z")
    assert judge([SLATE])[0]["score"].values == pytest.approx((0.0, 0.0, 0.0, 0.0))


def test_where_a_part_abstains_so_does_the_sum_unless_told_otherwise() -> None:
    parts = [("x", said(1, None, None, 4), 3.0), ("y", said(1, 1, None, 0), 1.0)]
    assert composite(parts)([SLATE])[0]["score"].values == (4.0, None, None, 12.0)
    assert composite(parts, missing="left out")([SLATE])[0]["score"].values == (4.0, 4.0, None, 12.0)


def test_comparisons_and_labels_are_read_as_numbers() -> None:
    table = Compared(lambda slate: [[0.5, 1, 1, 1], [0, 0.5, 0, 0], [0, 1, 0.5, 0], [0, 1, 1, 0.5]])
    labels = lambda slates: [{"good": Feedback("label", (True, False, None, True))} for _ in slates]  # noqa: E731
    columns = composite([("t", table, 1.0), ("l", labels, 1.0)], missing="left out")([SLATE])[0]
    assert columns["score:t"].values == (0.875, 0.125, 0.375, 0.625)
    assert columns["score:l"].values == (1.0, 0.0, None, 1.0)
    with pytest.raises(InputError, match="no score"):
        composite([("t", lambda slates: [{} for _ in slates], 1.0)])([SLATE])


def test_the_text_of_the_command_line() -> None:
    judge = judging.find("composite:rank(1*length:words + -0.5*keywords:a,-b)")
    assert isinstance(judge, Composite) and judge.scale == "rank"
    assert judge.parts[0] == ("length:words", Length("words"), 1.0)
    plain = judging.find("composite:1*length + 2*brevity:words")
    assert plain([SLATE])[0]["score"].values == (1 - 2, 5 - 4, 3 - 2, 1 - 2)


@pytest.mark.parametrize(
    "spec",
    ["composite", "composite:", "composite:length", "composite:x*length", "composite:1*nobody", "composite:0*length",
     "composite:1*length + 1*length", "composite:z(1*length + )"],
)  # fmt: skip
def test_what_cannot_be_read_is_said(spec: str) -> None:
    with pytest.raises(InputError):
        judging.find(spec)


def test_a_judge_without_a_weight_is_named() -> None:
    with pytest.raises(InputError, match=r"'length' in the composite .* is not WEIGHT\*JUDGE"):
        judging.find("composite:length + 1*brevity")


def test_parts_that_are_the_policy_itself_get_it() -> None:
    judge = judging.find("composite:1*length + 1*self:yes")
    bound = judging.spoken_by(judge, "policy")  # type: ignore[arg-type]
    assert bound.parts[1][1].model == "policy"  # type: ignore[attr-defined]
