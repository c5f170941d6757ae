"""The composite of OLAPH (arXiv 2405.12701) by hand: words, meaning, statements, and what pairs it gives."""

from __future__ import annotations

import random

import numpy as np
import pytest

from prefine import judging
from prefine.curating.best_against_worse import best_against_worse, best_of
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.judging.overlap import Words, matched
from prefine.judging.statements import Alike, Frames, Statements, Verdict, cosine
from prefine.slate import Candidate, Slate, scores
from prefine.systems.iteration.olaph import need_rows
from prefine.worlds import remedies


def judged(meta: dict[str, object], *texts: str, verdict: Verdict = Frames()) -> dict[str, tuple[float | None, ...]]:  # noqa: B008
    columns = Statements(verdict)([Slate("?", tuple(map(Candidate, texts)), meta=meta)])[0]
    return {name: column.values for name, column in columns.items()}


def test_two_statements_by_hand() -> None:
    """MH = {A}, NH = {B}: both stated; A contradicted; only B contradicted; nothing said."""
    rows = {"must_have": ["Use it daily."], "nice_to_have": ["It comes as tea."]}
    texts = ("Use it daily. It comes as tea.", "Use it at night.", "Use it daily. It comes as oil.", "No.")
    found = judged(rows, *texts)
    assert found["comprehensiveness"] == (100.0, 0.0, 100.0, 0.0)
    assert found["hallucination"] == (0.0, 50.0, 50.0, 0.0)
    assert found["factuality"] == (100.0, -50.0, 50.0, 0.0)
    assert next(iter(found)) == "factuality"


def test_empty_lists_are_zero_and_missing_ones_are_not_scored() -> None:
    assert judged({"must_have": [], "nice_to_have": []}, "x")["factuality"] == (0.0,)
    only_nice = judged({"must_have": [], "nice_to_have": ["Use it daily."]}, "Use it daily.", "Use it at night.")
    assert only_nice["comprehensiveness"] == (0.0, 0.0) and only_nice["hallucination"] == (0.0, 100.0)
    assert judged({}, "x")["factuality"] == (None,)
    assert judged({"must_have": ["a"]}, "x", verdict=lambda asked: [None] * len(asked))["factuality"] == (None,)


def test_the_released_cosine_makes_silence_a_contradiction() -> None:
    """The trap: HL = 100 - CP where all statements are must-have; a verdict with a middle does not do that."""
    rows = {"must_have": ["helps with coughs", "never for children"]}
    assert judged(rows, "It helps with coughs", verdict=Alike())["hallucination"] == (50.0,)
    assert judged(rows, "It helps with coughs.", verdict=Frames())["hallucination"] == (0.0,)
    assert cosine("a a b", "a b b") == pytest.approx(4 / 5) and cosine("", "a") == 0.0


def test_words_are_three_rouges_by_hand() -> None:
    """ "the cat sat" against "the cat ran away": 2 of 3 and 4 words, 1 of 2 and 3 pairs, a subsequence of 2."""
    slate = Slate("?", (Candidate("the cat sat"), Candidate("")), meta={"reference": "The cat ran away."})
    one, two, longest = 2 * 2 / 7, 2 * 1 / 5, 2 * 2 / 7
    assert Words()([slate])[0]["words"].values == (pytest.approx(100 * (one + two + longest)), 0.0)
    assert Words()([Slate("?", (Candidate("a"),))])[0]["words"].values == (None,)
    same = Slate("?", (Candidate("the cat ran away"),), meta={"extra": {"reference": "The cat ran away."}})
    assert Words()([same])[0]["words"].values == (300.0,)


def test_bertscore_is_the_mean_of_greedy_matches_both_ways() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(2, 3))
    table = np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])
    p, r = table.max(1).mean(), table.max(0).mean()
    assert matched(a, b) == pytest.approx(2 * p * r / (p + r)) and matched(a, a) == pytest.approx(1.0)


def test_the_sum_is_weighted_and_reads_factuality() -> None:
    rows = {"reference": "Use it daily.", "must_have": ["Use it daily."]}
    parts = [("words", Words(), 1.0), ("factuality", Statements(Frames()), 0.5)]
    said = Slate("?", (Candidate("Use it daily."), Candidate("Use it at night.")), meta=rows)
    values = judging.composite(parts)([said])[0]["score"].values  # type: ignore[arg-type]
    words = Words()([said])[0]["words"].values
    assert values == (pytest.approx(300 + 50), pytest.approx(words[1] - 50))


def six(*told: float, texts: tuple[str, ...] = ()) -> Slate:
    return Slate("x", tuple(Candidate(t) for t in texts or map(str, told)), {"score": scores(told)})


def test_pairs_are_the_best_against_every_one_lower_by_20() -> None:
    told = (300, 275, 290, 279, 280, 260)
    found = list(best_against_worse(floor=200, min_gap=20)([six(*told)], random.Random(0)))
    assert {c.response(0) for c in found} == {"300"}
    assert sorted(int(c.response(1)) for c in found) == [260, 275, 279, 280]
    assert list(best_against_worse(floor=301, min_gap=20)([six(*told)], random.Random(0))) == []
    tied = six(5, 5, 4, texts=("best", "as good", "worse"))
    assert [c.response(1) for c in best_against_worse()([tied], random.Random(0))] == ["worse"], "equals are no pair"


def test_texts_that_repeat_or_are_broken_take_no_part() -> None:
    rule = best_against_worse(min_gap=1, banned=("::", "....."), banned_in_chosen=("?",))
    texts = ("best", "best", "worse", "worse ", "", "a :: b", "c .....")
    slate = six(9, 5, 4, 3, 2, 1, 0, texts=texts)
    assert [c.response(1) for c in rule([slate], random.Random(0))] == ["worse"]
    assert list(rule([six(9, 5, texts=("Is it?", "no"))], random.Random(0))) == []
    assert [c.response(1) for c in rule([six(9, 5, texts=("yes", "Is it?"))], random.Random(0))] == ["Is it?"]


def test_the_first_step_imitates_the_best_own_answer() -> None:
    (lesson,) = best_of()([six(1, 3, 2), six()], random.Random(0))
    assert lesson.response(0) == "3" and lesson.roles == (1,)


def test_rows_without_what_the_metrics_need_are_explained() -> None:
    with pytest.raises(InputError, match="no prompt has must_have"):
        need_rows([Slate("x", meta={"reference": "r"})], ["reference", "must_have"])  # type: ignore[arg-type]


def test_the_worlds_gold_agrees_with_its_statements() -> None:
    for slate in remedies.prompts("test", 20, 0):
        herb = slate.meta["herb"]
        false = remedies.state(
            herb, "dose", next(v for v in remedies.KINDS["dose"][1] if v != remedies.truth(herb)["dose"])
        )
        texts = (remedies.demonstrate(slate, random.Random(0)), f" {false}", f" {remedies.state(herb, 'form')}", " Hm.")
        said = Slate(slate.prompt, tuple(map(Candidate, texts)), meta=slate.meta)
        assert remedies.gold(said) == [1.0, -0.2, 0.2, 0.0]
        found = Statements(Frames())([said])[0]
        assert found["comprehensiveness"].values == (100.0, 0.0, 0.0, 0.0)
        assert found["hallucination"].values == (0.0, 20.0, 0.0, 0.0)
    assert Scored(remedies.gold)([Slate("Who can use sage?", (Candidate("No."),))])[0]["score"].values == (0.0,)
