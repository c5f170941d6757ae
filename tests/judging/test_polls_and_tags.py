"""Votes, strengths from wins, yes-or-no flags, and verdicts on tagged answers."""

from __future__ import annotations

import numpy as np
import pytest

from prefine import judging
from prefine.judging.base import Compared, Scored
from prefine.judging.flags import Flagged
from prefine.judging.polls import Polled, zermelo
from prefine.judging.tagged import Tagged
from prefine.slate import Candidate, Slate

TWO = Slate("p", (Candidate("a"), Candidate("b")))


def test_zermelo_recovers_the_strengths_that_made_the_wins() -> None:
    strengths = np.array([1.0, 2.0, 4.0, 8.0])
    wins = 30 * strengths[:, None] / (strengths[:, None] + strengths[None, :])
    np.fill_diagonal(wins, 0)
    assert zermelo(wins.tolist()) == pytest.approx(strengths / 15, abs=1e-6)


def test_zermelo_does_not_care_about_the_number_of_games_nor_the_diagonal() -> None:
    wins = np.array([[0.5, 0.7, 0.6], [0.3, 0.5, 0.8], [0.4, 0.2, 0.5]])
    assert zermelo(wins.tolist()) == pytest.approx(zermelo((9 * (wins - np.diag(np.diag(wins)))).tolist()), abs=1e-7)


def test_zermelo_ends_where_one_never_lost() -> None:
    found = zermelo([[0, 1, 1], [0, 0, 1], [0, 0.5, 0]], at_most=500)
    assert found[0] > 0.99 and sum(found) == pytest.approx(1)


def test_shares_of_votes_are_whole_votes_and_add_up() -> None:
    slates = [Slate(f"p{i}", TWO.candidates) for i in range(400)]
    judge = Polled(Compared(lambda slate: [[0.5, 0.8], [0.2, 0.5]]), votes=9)
    shares = np.array([columns["preference"].values for columns in judge(slates)])
    assert np.allclose(shares[:, 0, 1] + shares[:, 1, 0], 1) and np.allclose((shares * 18) % 1, 0)
    assert shares[:, 0, 1].mean() == pytest.approx(0.8, abs=0.03)  # 3600 votes
    assert shares[:, 0, 1].std() == pytest.approx((0.8 * 0.2 / 9) ** 0.5, abs=0.02)
    assert [c["preference"] for c in judge(slates)] == [c["preference"] for c in judge(slates)]
    assert Polled(judge.judge, 9, seed=1)(slates) != judge(slates)


def test_below_the_mark_is_a_hallucination_and_an_abstention_stays_one() -> None:
    slate = Slate("p", tuple(map(Candidate, "abc")))
    judge = Flagged(Scored(lambda slate: [0.4, 0.5, None]), at=0.5, name="wrong")
    assert judge([slate])[0]["wrong"].values == (True, False, None)


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("<think>x</think><answer>7</answer>", 1.0),
        ("  <think>x</think> so <answer> 7.0 </answer>", 1.0),
        ("<think>x</think><answer>8</answer>", 0.0),
        ("<think>x</think><answer>  </answer>", -1.0),
        ("<answer>7</answer>", -2.0),
        ("<answer>7</answer><think>x</think>", -2.0),
        ("<think>x</think><answer>7</answer><answer>7</answer>", -2.0),
        ("7", -2.0),
    ],
)
def test_tags_have_to_be_there_once_and_in_order(response: str, verdict: float) -> None:
    slate = Slate("3+4", (Candidate(response),), meta={"answer": "7"})
    assert Tagged()([slate])[0]["verified"].values == (verdict,)
    assert judging.find("tagged")([slate])[0]["score"].values == (verdict,)


def test_without_a_gold_answer_it_abstains() -> None:
    assert Tagged()([Slate("p", (Candidate("7"),))])[0]["verified"].values == (None,)
