"""Judges that need no model: final answers, verdicts, votes, lengths and words."""

from __future__ import annotations

import pytest

from prefine import judging
from prefine.judging.answers import After, boxed, canonical, final_answer, last_number, same, value
from prefine.judging.base import Judge
from prefine.slate import Candidate, Slate, scores, table


def slate(*texts: str, **meta: object) -> Slate:
    return Slate("p", tuple(map(Candidate, texts)), meta=meta)


def said(judge: Judge, *texts: str, column: str = "score", **meta: object) -> tuple[object, ...]:
    (columns,) = judge([slate(*texts, **meta)])
    return columns[column].values


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}.", "4"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{a}{b}}", r"\frac{a}{b}"),
        (r"\boxed{}", ""),
        (r"\boxed{4", None),
        ("4", None),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The answer is 3, or \boxed{4}", "4"),
        ("#### 72", "72"),
        ("#### 1\n#### 2", "2"),
        ("The Answer Is: 3.5.", "3.5"),
        ("answer: yes", "yes"),
        ("7 plus 8 is 15", "15"),
        ("nothing", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("1/2", "0.5", True),
        (r"\frac{2}{4}", "0.50", True),
        (r"\dfrac{1}{3}", "1/3", True),
        ("0.333", "1/3", False),
        ("1,000", "1000", True),
        ("$12$", "12.0", True),
        ("50%", "50", True),
        ("-3", "+3", False),
        ("x + 1", "x+1", True),
        ("X+1", "x+1", True),
        ("x+1", "x+2", False),
        ("1/0", "1/0", True),
        ("1/0", "2/0", False),
        ("(1,2)", "(1, 2)", True),
        ("0.1", "0.1000000001", False),
        ("__import__('os')", "1", False),
        ("9" * 50, "9" * 50, True),
    ],
)
def test_equality_is_exact_and_evaluates_nothing(a: str, b: str, equal: bool) -> None:
    assert same(a, b) is equal and same(b, a) is equal
    assert (canonical(a) == canonical(b)) is equal


def test_an_enormous_exponent_is_no_number() -> None:
    assert value("1e999999999") is None and value("9" * 10_000) is None


def test_three_levels() -> None:
    judge = judging.verifier("boxed")
    texts = (r"\boxed{1/2}", r"\boxed{0.6}", r"\boxed{}", "0.5", r"\boxed{0.50}")
    assert said(judge, *texts, column="verified", answer="0.5") == (1.0, 0.0, 0.0, -1.0, 1.0)


def test_without_a_gold_answer_the_verifier_abstains() -> None:
    assert said(judging.verifier(), "4", column="verified") == (None,)


def test_a_gold_answer_of_zero_is_an_answer() -> None:
    assert said(judging.verifier(), "it is 0", column="verified", answer=0) == (1.0,)


def test_the_whole_path_of_a_tree_is_read_and_votes_are_of_leaves() -> None:
    tree = Slate("p", (Candidate("so "), Candidate("#### 4", parent=0), Candidate("#### 5", parent=0)))
    (columns,) = judging.votes()([tree])
    assert columns["votes"].values == (None, 1.0, 1.0)
    assert columns["answer"].values == (None, "4", "5")


def test_length_and_brevity() -> None:
    assert said(judging.find("length"), "ab", "abcd") == (2.0, 4.0)
    assert said(judging.find("length:words"), "a b", "a") == (2.0, 1.0)
    assert said(judging.find("brevity:words"), "a b", "a") == (-2.0, -1.0)
    tokens = Slate("p", (Candidate("abc", tokens=(1, 2)),))
    assert judging.find("length:tokens")([tokens])[0]["score"].values == (2.0,)


def test_keywords_are_whole_words_in_any_case() -> None:
    judge = judging.find("keywords:thanks,please,-sorry")
    assert said(judge, "Thanks, thanks!", "please and thanks", "sorry", "thanksgiving") == (1.0, 2.0, -1.0, 0.0)


def test_bradley_terry_tables_and_win_rates() -> None:
    judged = slate("a", "b", "c").with_feedback("score", scores([1.0, 0.0, None]))
    (columns,) = judging.BradleyTerryTable()([judged])
    P = columns["preference"].values
    assert P[0][1] == pytest.approx(0.7310585786) and P[0][1] + P[1][0] == pytest.approx(1.0)
    assert P[2] == (0.5, 0.5, 0.5) and P[0][0] == 0.5
    (rates,) = judging.WinRates()([judged.with_feedback("preference", columns["preference"])])
    assert rates["win"].values[0] == pytest.approx((0.5 + 0.7310585786 + 0.5) / 3)


def test_a_table_from_a_judge_of_scores() -> None:
    judge = judging.BradleyTerryTable(judging.Length(), temperature=2.0)
    (columns,) = judge([slate("aa", "a")])
    assert columns["score"].values == (2.0, 1.0)
    assert columns["preference"].values[0][1] == pytest.approx(0.6224593312)  # sigma(1/2)


def test_extreme_scores_do_not_overflow() -> None:
    judged = slate("a", "b").with_feedback("score", scores([1e6, -1e6]))
    assert judging.BradleyTerryTable()([judged])[0]["preference"].values == ((0.5, 1.0), (0.0, 0.5))


def test_win_rates_include_the_diagonal() -> None:
    judged = slate("a", "b").with_feedback("preference", table([[0.5, 1.0], [0.0, 0.5]]))
    assert judging.WinRates()([judged])[0]["win"].values == (0.75, 0.25)


def test_markers_ignore_case_and_a_closing_full_stop() -> None:
    assert After("result")("The Result: 5 apples.\nBye") == "5 apples"


def test_last_number_takes_fractions_and_signs() -> None:
    assert last_number("from 3 to -1/2") == "-1/2" and last_number("1,234.5 units") == "1,234.5"
