"""Key phrases and degrees, pairs of one dimension, logged pairs beside samples."""

from __future__ import annotations

import random

import pytest

from prefine import curating
from prefine.curating.key_phrases import phrases, without
from prefine.errors import InputError
from prefine.slate import Candidate, Contrast, Slate, pair, scores, table

RNG = random.Random(0)


# -- 073: RAKE and what it takes away


def test_rake_scores_words_by_degree_over_frequency() -> None:
    """Sheet 073, and a word that is in two phrases: degree (2 + 1) / frequency 2."""
    found = {p: s for p, s, _ in phrases("compatibility of systems of linear constraints", frozenset({"of"}))}
    assert found == {"compatibility": 1.0, "systems": 1.0, "linear constraints": 4.0}
    found = {p: s for p, s, _ in phrases("fast cars and cars", frozenset({"and"}))}
    assert found == {"fast cars": 2 + 1.5, "cars": 1.5}


def test_punctuation_cuts_phrases_and_places_are_those_of_the_text() -> None:
    text = "The red fox, quick feet.\nBig red fox"
    found = phrases(text)
    assert {p for p, _, _ in found} == {"red fox", "quick feet", "big red fox"}
    assert all(text[a:b].lower() == p for p, _, at in found for a, b in at)


def test_deleted_means_deleted() -> None:
    text = " First fill the kettle, then boil water."
    assert without(text, [(12, 22)]) == " First fill, then boil water."
    assert without(text, []) == text
    assert without("a b", [(0, 3)]) == ""


def degraded(text: str, **options: object) -> Contrast:
    slate = Slate("x", (Candidate(text, tokens=(1, 2)), Candidate("alpha; beta; gamma; delta", tokens=(3,))))
    (made,) = curating.degraded(**options)([pair(slate, 0, 1, weight=0.5)], random.Random(1))  # type: ignore[arg-type]
    return made


def test_degree_k_is_without_the_best_floor_k_over_K_minus_1_of_n() -> None:
    """5 phrases, K = 4: 0, 1, 3 and 5 of them go, the highest-scored first."""
    text = "one two three; four five; six; seven; eight"
    made = degraded(text, degrees=4, sides="chosen")
    assert made.roles == (1, -1, 0, 0, 0, 0)
    assert made.values["degree"] == (-1.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    assert made.values["of"] == (1.0, -1.0, 1.0, 1.0, 1.0, 1.0)
    assert made.values["weight"] == 0.5
    said = [made.response(m) for m in range(2, 6)]
    left = [[w for w in text.replace(";", "").split() if w in s.replace(";", " ").split()] for s in said]
    assert said[0] == text
    assert left[1] == ["four", "five", "six", "seven", "eight"]
    assert left[2] == ["seven", "eight"]
    assert left[3] == []


def test_both_sides_have_variants_and_the_pair_is_untouched() -> None:
    made = degraded("one; two; three; four", degrees=3, most=0.5)
    assert made.values["degree"][2:] == (0.0, 1.0, 2.0, 0.0, 1.0, 2.0)  # type: ignore[index]
    assert made.values["of"][2:] == (1.0, 1.0, 1.0, -1.0, -1.0, -1.0)  # type: ignore[index]
    assert [made.slate.candidates[m].tokens for m in made.members[:2]] == [(1, 2), (3,)]
    last = made.response(4)
    assert sum(word in last for word in ("one", "two", "three", "four")) == 2  # floor(2/2 * 4 * 0.5) gone


def test_drawn_degrees_and_short_responses() -> None:
    made = degraded("one; two", degrees=4, draw=2)
    assert len(made.values["degree"]) == 2 + 2  # type: ignore[arg-type]  # the chosen has too few phrases
    assert set(made.values["of"][2:]) == {-1.0}  # type: ignore[index]


def test_key_words_can_be_given() -> None:
    made = degraded("k1 noise k2 noise", degrees=3, sides="chosen", words="k1 k2")
    assert [made.response(m) for m in (2, 3, 4)] == ["k1 noise k2 noise", "noise k2 noise", "noise noise"]


def test_nothing_to_take_away_is_explained() -> None:
    slate = Slate("x", (Candidate("yes"), Candidate("no")))
    with pytest.raises(InputError, match="key phrases"):
        list(curating.degraded(4)([pair(slate, 0, 1)], RNG))


# -- 067: dimensions


def test_pairs_of_a_dimension_by_what_they_say() -> None:
    two = (Candidate("a"), Candidate("b"))
    rows = [
        pair(Slate("x", two, meta={"extra": {"dimension": name}}), 0, 1) for name in ("helpful", "harmless", "helpful")
    ]
    assert len(list(curating.of_dimension("helpful")(rows, RNG))) == 2
    assert list(curating.of_dimension("harmless")(rows, RNG)) == [rows[1]]


def test_pairs_of_a_dimension_by_its_scores() -> None:
    """The same two responses, ordered one way in one dimension and the other way in another; ties are left out."""
    slate = Slate("x", (Candidate("a"), Candidate("b")))
    slate = slate.with_feedback("helpful", scores([2.0, 1.0])).with_feedback("harmless", scores([0.0, 3.0]))
    tied = slate.with_feedback("brief", scores([1.0, 1.0]))
    row = pair(tied, 1, 0, win=(0.1, 0.9))
    (helpful,) = curating.of_dimension("helpful")([row], RNG)
    (harmless,) = curating.of_dimension("harmless")([row], RNG)
    assert (helpful.response(0), harmless.response(0)) == ("a", "b")
    assert helpful.roles == (1, -1) and "win" not in helpful.values
    assert not list(curating.of_dimension("brief")([row], RNG))


def test_a_dimension_that_is_not_there_is_explained() -> None:
    slate = Slate("x", (Candidate("a"), Candidate("b"))).with_feedback("helpful", scores([2.0, 1.0]))
    with pytest.raises(InputError, match=r"no dimension 'harmless'.*there: helpful"):
        curating.check_dimensions([pair(slate, 0, 1)], ["helpful", "harmless"])


# -- 052: logged pairs beside samples


def test_rows_come_in_both_orders_with_residuals_and_wins() -> None:
    logged = Slate("x", (Candidate("w"), Candidate("l")))
    samples = Slate("x", (Candidate("s", stop="end"), Candidate("t", stop="length")))
    (slate,) = curating.beside_samples([pair(logged, 0, 1)], [samples])
    P = [[0.5, 0.8, 0.3, 0.4], [0.2, 0.5, 0.1, 0.6], [0.7, 0.9, 0.5, 0.5], [0.6, 0.4, 0.5, 0.5]]
    judged = slate.with_feedback("preference", table(P))
    one, two = curating.both_orders(unfinished=0.25)([judged], RNG)
    assert (one.members, one.roles) == ((0, 2, 3), (1, 0, 0))
    assert (two.members, two.roles) == ((1, 2, 3), (-1, 0, 0))
    assert one.values["residual"] == pytest.approx(1 - 0.8) and two.values["residual"] == pytest.approx(0 - 0.2)
    assert one.values["win"] == pytest.approx((0.8, 0.9, 0.4 - 0.25))  # against a2 = the rejected
    assert two.values["win"] == pytest.approx((0.2, 0.7, 0.6 - 0.25))  # against a2 = the chosen
    plain, other = curating.both_orders(model=False)([judged], RNG)
    assert (plain.values["residual"], other.values["residual"]) == (1.0, 0.0)


def test_samples_must_be_of_the_pairs_prompts() -> None:
    logged = Slate("x", (Candidate("w"), Candidate("l")))
    with pytest.raises(ValueError, match="other prompts"):
        list(curating.beside_samples([pair(logged, 0, 1)], [Slate("y", (Candidate("s"),))]))
