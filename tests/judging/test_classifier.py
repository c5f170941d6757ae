"""Yes against no: the equation on logits set by hand, spellings, categories, whole points, agreement with pairs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.judging.base import Scored, spoken_by
from prefine.judging.classifier import QUESTIONS, Classifier
from prefine.slate import Candidate, Slate, pair

YES, NO, OTHER = (3, 5), (8,), (0, 1, 2, 4, 6, 7, 9)
SPELT = {"Yes": 3, " Yes": 5, "No": 8, "chat": 0, "code": 1, "math": 2, "safety": 4}


@dataclass
class Logits:
    """A server with hand-set logits at the last position, one row a question, over ten words."""

    rows: Any
    asked: list[Any] = field(default_factory=list)

    def sample(self) -> None: ...

    def response_logps(self, prompt: Any, word: str) -> tuple[float, ...]:
        if prompt not in self.asked:
            self.asked.append(prompt)
        logits = np.asarray(self.rows[self.asked.index(prompt) % len(self.rows)], dtype=np.float64)
        logp = logits - np.log(np.exp(logits).sum())
        return (float(logp[SPELT[word]]),)


def slate(*texts: str, **meta: Any) -> Slate:
    return Slate(meta.pop("prompt", "p"), tuple(map(Candidate, texts)), meta=meta)


def share(logits: Sequence[float], **options: Any) -> float:
    judge = judging.classifier(Logits([logits]), no="No", **options)
    value = judge([slate("x")])[0]["score"].values[0]
    assert value is not None
    return float(value)


def test_the_score_is_the_softmax_restricted_to_yes_and_no() -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=10)
    whole = np.exp(logits) / np.exp(logits).sum()
    yes, no = whole[list(YES)].sum(), whole[list(NO)].sum()
    assert share(logits) == pytest.approx(yes / (yes + no), abs=1e-12)


def test_a_constant_and_other_words_do_not_matter() -> None:
    logits = np.random.default_rng(1).normal(scale=3, size=10)
    changed = logits.copy()
    changed[list(OTHER)] += 7
    assert share(logits) == pytest.approx(share(logits + 11), abs=1e-12) == pytest.approx(share(changed), abs=1e-12)


def test_with_one_spelling_each_it_is_the_sigmoid_of_the_difference() -> None:
    logits = np.random.default_rng(2).normal(scale=3, size=10)
    assert share(logits, yes="Yes") == pytest.approx(1 / (1 + math.exp(logits[8] - logits[3])), abs=1e-12)


def test_very_unlikely_words_still_give_a_score_and_impossible_ones_none() -> None:
    judge = Classifier(None, yes=("a",), no=("b",))
    assert judge.share([-900.0, -900.0 - math.log(3)]) == pytest.approx(0.75)  # exp(-900) is 0
    assert (
        judge.share([-math.inf, -1.0]) == pytest.approx(0, abs=1e-300) and judge.share([-math.inf, -math.inf]) is None
    )


@pytest.mark.parametrize(("yes", "no"), [(("Yes", "Yes."), "No"), ("N", "No"), ("Yes", "Yes"), ((), "No"), ("", "No")])
def test_words_that_begin_alike_would_count_twice(yes: Any, no: Any) -> None:
    with pytest.raises(InputError, match="cannot be told apart"):
        judging.classifier(None, yes=yes, no=no)


def test_a_question_has_to_show_the_response() -> None:
    with pytest.raises(InputError, match="does not show the response"):
        judging.classifier(None, "Is {prompt} good?")


# -- categories


def test_the_question_goes_by_the_category_in_the_data() -> None:
    model = Logits([np.zeros(10)])
    rows = [
        slate("a", prompt="1", category="math"),
        slate("a", prompt="2", extra={"category": "code"}),
        slate("a", prompt="3"),
        slate("a", prompt="4", category="poetry"),
    ]
    judging.classifier(model, no="No")(rows)
    said = [dict(QUESTIONS)[c].format(prompt=str(i + 1), response="a") for i, c in enumerate(["math", "code"])]
    said += [QUESTIONS[0][1].format(prompt=p, response="a") for p in "34"]
    assert model.asked == said


def test_the_model_is_asked_for_a_category_only_where_there_is_none() -> None:
    logits = np.zeros(10)
    logits[SPELT["safety"]] = 2.0
    model = Logits([logits])
    judging.classifier(model, no="No", sort=True)([slate("a", prompt="x", category="math"), slate("a", prompt="y")])
    sorting, first, second = model.asked
    assert "y" in sorting and "chat, code, math, safety" in sorting
    assert first == dict(QUESTIONS)["math"].format(prompt="x", response="a")
    assert second == dict(QUESTIONS)["safety"].format(prompt="y", response="a")


def test_a_conversation_is_asked_about_in_one() -> None:
    model = Logits([np.zeros(10)])
    judging.classifier(model, no="No")([slate("a", prompt=({"role": "user", "content": "hi"},))])
    assert model.asked[0][0]["role"] == "user" and "user: hi" in model.asked[0][0]["content"]


# -- who judges, and how well


def test_without_a_model_it_is_the_policy_of_the_moment() -> None:
    judge = judging.find("classifier")
    with pytest.raises(InputError, match="no model"):
        judge([slate("x")])
    bound = spoken_by(judging.classifier(None, no="No"), Logits([np.zeros(10)]))  # type: ignore[arg-type]
    assert bound([slate("x")])[0]["score"].values == pytest.approx((2 / 3,))
    assert spoken_by(judging.stepped(judging.classifier(None, no="No")), Logits([np.zeros(10)]))(  # type: ignore[arg-type]
        [slate("x")]
    )[0]["score"].values == (4.0,), "round(1 + 4 * 2/3)"
    own = judging.classifier(Logits([]))
    assert spoken_by(own, Logits([np.zeros(10)])) is own  # type: ignore[arg-type]


def test_whole_points_tie_where_shares_do_not() -> None:
    judge = Scored(lambda slate: [0.88, 0.95, 0.3, None])
    assert judging.stepped(judge)([slate(*"abcd")])[0]["score"].values == (5.0, 5.0, 2.0, None)
    with pytest.raises(InputError):
        judging.stepped(judge, 1)


def test_pairs_are_tried_without_what_the_data_says_of_them() -> None:
    three = Slate("p", tuple(map(Candidate, "abc"))).with_feedback("score", judging.base.scores([1, 2, 3]))
    (two,) = judging.two_sided([pair(three, 2, 0)])
    assert [two.response(i) for i in range(2)] == ["c", "a"] and not two.feedback
    chosen_better = [two.with_feedback("score", judging.base.scores(v)) for v in ([1, 0], [1, 1], [0, 1], [1, None])]
    assert judging.agreement(chosen_better) == {"accuracy": 0.25, "ties": 0.25, "abstained": 0.25}


def test_questions_have_keys_of_their_own() -> None:
    judges = [
        judging.classifier(),
        judging.classifier(sort=True),
        judging.classifier(None, "{response}?"),
        judging.classifier(None, yes="Ja", no="Nein"),
        judging.stepped(judging.classifier()),
    ]
    random.Random(0).shuffle(judges)
    assert len({key_of(judge=j) for j in judges}) == len(judges)
