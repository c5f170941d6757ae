"""The reviews world's gold, on sentences whose sentiment is worked out by hand."""

from dataclasses import replace
from math import tanh

import pytest

from prefine.slate import Candidate, Slate
from prefine.worlds import find_world
from prefine.worlds.reviews import repetition, sentiment

WORLD = find_world("reviews")


@pytest.mark.parametrize(
    ("text", "strength"),
    [
        ("superb", 3),
        ("good and bad.", 1 - 2),
        ("very good.", 1.5),
        ("not awful.", 1.5),
        ("hardly great and slightly dull.", -1 - 0.5),
        ("not very great.", -1.5),
        ("not the good.", 1),  # only the very next word is turned round
        ("", 0),
        ("Superb! GREAT?", 5),
        ("goodness", 0),
    ],
)
def test_sentiment(text: str, strength: float) -> None:
    assert sentiment(text) == pytest.approx(strength)


def test_repetition_counts_three_word_sequences_seen_before() -> None:
    assert repetition("the plot was good") == 0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)
    assert repetition("good good good good") == pytest.approx(1 / 2)
    assert repetition("good") == 0


def test_gold_is_mood_less_repetition() -> None:
    texts = (" great.", " good good good good.", " great", "")
    slate = Slate("Review", candidates=tuple(Candidate(t) for t in texts))
    expected = (tanh(0.5), tanh(1.0) - 0.5, tanh(0.5) - 1, -1.0)
    assert WORLD.gold([slate])[0]["gold"].values == pytest.approx(expected)


def test_saying_it_over_and_over_does_not_pay() -> None:
    once, often = " superb and very great.", " superb." * 12
    slate = Slate("Review", candidates=(Candidate(once), Candidate(often)))
    a, b = WORLD.gold([slate])[0]["gold"].values
    assert a > b


def test_prompts_stop_where_the_opinion_begins() -> None:
    for slate in WORLD.prompts("train", 50, 0):
        assert not str(slate.prompt).endswith((" ", "."))
        assert str(slate.meta["thing"]) in str(slate.prompt)
    assert replace(WORLD.prompts("train", 1, 0)[0], meta={}).feedback == {}
