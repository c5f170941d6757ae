"""024 VerIPO: rewards of estimates, forms, readers, and each of the verifier's rules on rollouts made by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import pytest

from prefine import curating, judging
from prefine.curating.guided import FLAWED, REFLECTION, REFLECTIVE, WRONG
from prefine.errors import InputError
from prefine.judging.base import Scored
from prefine.judging.estimates import mean_relative_accuracy
from prefine.judging.thoughts import InTags, Marked, Reading
from prefine.policies.base import Sampling
from prefine.slate import Candidate, Contrast, Prompt, Slate, labels, scores

RNG = random.Random(0)


def test_mean_relative_accuracy_is_strict_at_every_threshold() -> None:
    """|error| < 1 - theta for theta = 0.5 ... 0.95: an error of 30% passes 0.5 to 0.65 and not 0.7, where it is equal."""
    gold = Fraction(10)
    for found, want in ((10, 1.0), (13, 0.4), (7, 0.4), (15, 0.0), (Fraction(21, 2), 0.9), (14, 0.2), (20, 0.0)):
        assert mean_relative_accuracy(Fraction(found), gold) == pytest.approx(want)
        assert mean_relative_accuracy(-Fraction(found), -gold) == pytest.approx(want)
    assert mean_relative_accuracy(Fraction(0), Fraction(0)) == 1.0
    assert mean_relative_accuracy(Fraction(1), Fraction(0)) == 0.0


def test_estimates_are_graded_unreadable_ones_malformed_and_words_abstained_on() -> None:
    told = tuple(map(Candidate, ("#### 10", "#### 13", "#### many", "no idea")))
    assert judging.estimate("####")([Slate("?", told, meta={"answer": "10"})])[0]["verified"].values == (1, 0.4, -1, -1)
    assert judging.estimate()([Slate("?", told, meta={"answer": "a lot"})])[0]["verified"].values == (None,) * 4


def test_what_is_paid_is_accuracy_and_form() -> None:
    slate = Slate("?", tuple(map(Candidate, "abcde")))
    judge = judging.outcome(Scored(lambda s: [1.0, 0.4, 0.0, -1.0, None], "verified"))
    found = judge([slate])[0]
    assert found["accuracy"].values == (1.0, 0.4, 0.0, 0.0, None)
    assert found["score"].values == (1.5, 0.9, 0.5, 0.0, None)
    assert next(iter(found)) == "verified", "whose labels are counted"


@pytest.mark.parametrize("form", [InTags(), Marked("####")])
def test_forms_take_apart_what_they_put_together(form: InTags | Marked) -> None:
    assert form.split(form.join("a\nb", "7")) == ("a\nb", "7")
    assert form.split("just text") is None


def test_an_answer_is_consistent_with_the_thought_alone() -> None:
    told = ("2+2=4\n#### 4", "2+2=5\n#### 4", "#### 4", "4", "hm\n#### 4")
    found = judging.consistent("####")([Slate("?", tuple(map(Candidate, told)))])[0]["consistent"].values
    assert found == (True, False, False, None, None), "no thought is no reason; no form or no conclusion: not known"


@dataclass
class Echo:
    """A model that answers with the last word of the notes it is shown."""

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int]) -> list[list[Candidate]]:
        self.asked = [str(p) for p in prompts]
        last = [p.split("\n\nWhich final")[0].split()[-1] for p in self.asked]
        return [[Candidate("Answer: " + word if word != "mute" else "I cannot say")] for word in last]


def test_a_model_reads_the_thought_and_not_the_answer() -> None:
    told = ("so 4 {prompt}\n#### 5", "so 5\n#### 5", "mute\n#### 5")
    model = Echo()
    judge = judging.consistent("####", Reading(model))
    found = judge([Slate("how many?", tuple(map(Candidate, told)))])[0]["consistent"].values
    assert found == (False, True, None)
    assert all("####" not in asked and "how many?" in asked for asked in model.asked)
    assert "so 4 {prompt}" in model.asked[0], "a thought that looks like a template stays as it is"


def test_repetition_is_the_share_of_n_grams_said_before() -> None:
    slate = Slate("?", (Candidate("a b a b a b"), Candidate("a b c d")))
    assert judging.repetition(2)([slate])[0]["repetition"].values == pytest.approx((0.6, 0.0))


# -- the verifier's rules


def rollouts(*told: tuple[str, float, bool | None, float]) -> Slate:
    slate = Slate("?", tuple(Candidate(text) for text, *_ in told))
    for name, at, column in (("accuracy", 1, scores), ("consistent", 2, labels), ("repetition", 3, scores)):
        slate = slate.with_feedback(name, column([row[at] for row in told]))  # type: ignore[operator]
    return slate


def pairs_of(slate: Slate, **options: object) -> list[Contrast]:
    return list(curating.verifier_guided("####", **options)([slate], random.Random(0)))  # type: ignore[arg-type]


SHORT, LONG = ("2=2\n#### 2", 1.0, True, 0.0), ("1+1=2 and so\n#### 2", 1.0, True, 0.0)
BAD = ("1+1=3\n#### 3", 0.0, True, 0.0)


def test_the_longest_sound_response_is_chosen_over_a_wrong_one() -> None:
    (found,) = pairs_of(rollouts(SHORT, BAD, LONG), reflection="")
    assert (found.response(0), found.response(1)) == (LONG[0], BAD[0]) and found.values["rule"] == WRONG


def test_over_an_inconsistent_one() -> None:
    (found,) = pairs_of(rollouts(("x y z w v 3\n#### 2", 1.0, False, 0.0), SHORT))
    assert found.members == (1, 0) and found.values["rule"] == FLAWED


def test_over_a_repetitive_one_however_long_and_consistent() -> None:
    (found,) = pairs_of(rollouts(("again " * 40 + "\n#### 2", 1.0, True, 0.9), SHORT))
    assert found.members == (1, 0) and found.values["rule"] == FLAWED


def test_a_wrong_attempt_that_is_put_right_is_chosen_over_the_attempt_alone() -> None:
    wrong, reflective = pairs_of(rollouts(SHORT, BAD))
    assert wrong.values["rule"] == WRONG and reflective.values["rule"] == REFLECTIVE
    assert reflective.response(0) == f"1+1=3{REFLECTION}2=2\n#### 2" and reflective.response(1) == BAD[0]
    again = curating.verifier_guided("####")([rollouts(SHORT, ("three", 0.0, None, 0.0))], random.Random(0))
    assert [pair.values["rule"] for pair in again] == [WRONG], "what has no form is no attempt to put right"


def test_without_a_sound_response_there_is_no_pair_and_what_is_unread_is_on_neither_side() -> None:
    assert pairs_of(rollouts(BAD, ("1\n#### 2", 1.0, False, 0.0))) == []
    assert pairs_of(rollouts(SHORT, ("hm\n#### 2", 1.0, None, 0.0))) == []
    nearly = ("so 2.05\n#### 2.05", 0.9, True, 0.0)
    assert [p.response(0) for p in pairs_of(rollouts(nearly, BAD), reflection="")] == [nearly[0]]
    assert pairs_of(rollouts(nearly, BAD), right=0.95) == []


def test_four_fifths_of_the_solved_prompts_are_left_out_and_none_of_the_others() -> None:
    def answered(k: int, accuracies: tuple[float, ...]) -> Slate:
        slate = Slate(f"q{k}", tuple(map(Candidate, "ab")), meta={"id": k, "answer": "1"})
        return slate.with_feedback("accuracy", scores(accuracies))

    solved, open_ = [answered(k, (1.0, 1.0)) for k in range(1000)], [answered(k, (1.0, 0.0)) for k in range(50)]
    kept = list(curating.unsolved(0.2)(solved))
    assert len(kept) == pytest.approx(200, abs=40) and kept == list(curating.unsolved(0.2)(solved))
    assert all(not s.candidates and s.meta["answer"] == "1" for s in kept)
    assert len(list(curating.unsolved(0.0)(open_))) == 50
    assert len(list(curating.unsolved(1.0)(solved))) == 1000
    with pytest.raises(InputError, match="keep"):
        curating.unsolved(2.0)
    assert math.isclose(0.2, curating.unsolved().keep)  # type: ignore[attr-defined]
