"""Judges that users write: what goes wrong in one, or what it gives that is no judgement, is said to be its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefine import judging
from prefine.errors import InputError, RunStopped
from prefine.judging.base import Judge, compares, spoken_by
from prefine.slate import Candidate, Slate

SLATE = Slate("why?", (Candidate("a b"), Candidate("abc")), meta={"answer": "5"})
FORMS = ("prompt, response", "slate", "slates")


def judge_of(tmp_path: Path, text: str) -> Judge:
    (tmp_path / "mine.py").write_text(text)
    return judging.find(f"python:{tmp_path / 'mine.py'}:score")


@pytest.mark.parametrize("form", FORMS)
def test_a_function_that_fails_is_named_with_its_error(tmp_path: Path, form: str) -> None:
    with pytest.raises(InputError, match="'score' failed: KeyError: 'answers'"):
        judge_of(tmp_path, f"def score({form}): return {{}}['answers']")([SLATE])


@pytest.mark.parametrize("form", FORMS)
def test_what_prefine_says_itself_is_left_as_it_is(tmp_path: Path, form: str) -> None:
    text = f"from prefine.errors import RunStopped\ndef score({form}): raise RunStopped('the server is gone')"
    with pytest.raises(RunStopped, match=r"^the server is gone"):
        judge_of(tmp_path, text)([SLATE])


@pytest.mark.parametrize(
    ("form", "given", "shown"),
    [
        ("slate", "5", "5"),
        ("slate", "None", "None"),
        ("slate", "[1.0]", "[1.0]"),
        ("slate", "[1.0, 'good']", "[1.0, 'good']"),
        ("slate", "[1.0, float('nan')]", "[1.0, nan]"),
        ("slates", "None", "None"),
        ("slates", "[]", "[]"),
        ("slates", "[[1.0, 2.0]]", "[[1.0, 2.0]]"),
        ("slates", "[{'score': [1.0, 2.0]}]", "[{'score': [1.0, 2.0]}]"),
    ],
)
def test_what_is_no_judgement_is_shown(tmp_path: Path, form: str, given: str, shown: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"'score' gave {shown}")) as error:
        judge_of(tmp_path, f"def score({form}): return {given}")([SLATE])
    assert error.value.remedy.startswith("return a list of one ")


def test_a_slate_may_be_abstained_from_in_part(tmp_path: Path) -> None:
    text = "import numpy as np\ndef score(slate): return np.float32([len(c.text) for c in slate.candidates])"
    assert judge_of(tmp_path, text)([SLATE])[0]["score"].values == (3.0, 3.0)
    assert judge_of(tmp_path, "def score(slate): return [None, 2]")([SLATE])[0]["score"].values == (None, 2.0)


def test_an_object_with_more_to_say_is_still_heard(tmp_path: Path) -> None:
    text = """
from prefine.slate import scores
class Own:
    reads, compares, speaker = "key", True, None
    def spoken_by(self, policy):
        own = Own()
        own.speaker = policy
        return own
    def __call__(self, slates):
        return [{"score": scores([self.speaker.worth] * len(s))} for s in slates]
score = Own()
"""
    judge = judge_of(tmp_path, text)
    assert judge.reads == "key" and compares(judge)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="'Own' failed: AttributeError"):
        judge([SLATE])
    policy = type("Policy", (), {"worth": 4.0})
    assert spoken_by(judge, policy)([SLATE])[0]["score"].values == (4.0, 4.0)  # type: ignore[arg-type]
