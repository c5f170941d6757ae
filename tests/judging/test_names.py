"""Judges by name, and judges that users write."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.fingerprint import key_of
from prefine.slate import Candidate, Slate

SLATE = Slate("why?", (Candidate("a b"), Candidate("abc")), meta={"answer": "5"})


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_every_name_has_a_line_of_help() -> None:
    assert set(judging.HELP) == set(judging.JUDGES)


@pytest.mark.parametrize("name", ["length", "brevity", "keywords:a", "verifier", "verifier:boxed", "votes", "self"])
def test_names_give_judges_with_a_score(name: str) -> None:
    judge = judging.find(name)
    if name != "self":
        assert "score" in judge([SLATE])[0]


@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        ("def score(prompt, response): return len(prompt) + len(response)", "score", (7.0, 7.0)),
        ("def score(prompt, response, bonus=1): return bonus", "score", (1.0, 1.0)),
        ("def of(slate): return [None, 2]", "of", (None, 2.0)),
        ("def never(prompt, response): return None", "never", (None, None)),
        (
            "from prefine.slate import scores\ndef all(slates): return [{'score': scores([1, 2])} for _ in slates]",
            "all",
            (1.0, 2.0),
        ),
    ],
)
def test_a_function_of_ones_own(tmp_path: Path, text: str, spec: str, expected: tuple[float | None, ...]) -> None:
    judge = judging.find(f"python:{written(tmp_path, text)}:{spec}")
    assert judge([SLATE])[0]["score"].values == expected


def test_a_function_that_changes_has_another_key(tmp_path: Path) -> None:
    """Else a run would replay the judgements of the function as it was."""
    keys = []
    for text in ("def score(p, r): return 1.0", "def score(p, r): return 2.0"):
        folder = tmp_path / str(len(keys))
        folder.mkdir()
        keys.append(key_of(judge=judging.find(f"python:{written(folder, text)}:score")))
    assert keys[0] != keys[1]


BAD = {
    "nothing of the name": ("lenth", "did you mean 'length'"),
    "a unit that is none": ("length:miles", "characters"),
    "no words": ("keywords", "keywords:good"),
    "a colon too much": ("length:", "length"),
    "no directory": ("reward-model:/nowhere/at/all", "reward-model:DIR"),
    "no directory named": ("reward-model", "reward-model:DIR"),
    "one model of two": ("implicit-reward:.", "REFERENCE"),
    "no model of a server": ("endpoint:http://127.0.0.1:1/v1", "URL#MODEL"),
    "not an address": ("endpoint:localhost#tiny", "URL#MODEL"),
    "no function": ("python:judge.py", "python:FILE"),
    "no file": ("python:/nowhere/judge.py:score", "path of a Python file"),
    "no module": ("python:no_such_module_of_ours:score", "run it with python"),
    "how it grades itself": ("self:loudly", "grade"),
}


@pytest.mark.parametrize("case", BAD)
def test_names_that_cannot_be_used_are_input_errors(case: str) -> None:
    spec, hint = BAD[case]
    with pytest.raises(InputError) as error:
        judging.find(spec)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(prompt, response): return 1", "has no function 'score'"),
        ("def score(a, b, c): return 1", "takes 3 arguments"),
        ("def score(prompt response): return 1", "cannot be imported"),
        ("raise RuntimeError('no')", "cannot be imported"),
    ],
)
def test_files_that_cannot_be_used_are_input_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judging.find(f"python:{written(tmp_path, text)}:score")


@pytest.mark.parametrize("given", ["float('nan')", "float('inf')", "'good'", "[1]"])
def test_what_is_no_number_is_an_input_error(tmp_path: Path, given: str) -> None:
    judge = judging.find(f"python:{written(tmp_path, f'def score(p, r): return {given}')}:score")
    with pytest.raises(InputError, match="gave"):
        judge([SLATE])


def test_a_function_that_fails_is_not_our_fault(tmp_path: Path) -> None:
    text = "def score(prompt, response):\n    raise ValueError('ouch')\n"
    with pytest.raises(InputError, match="'score' failed: ValueError: ouch"):
        judging.find(f"python:{written(tmp_path, text)}:score")([SLATE])


def test_a_yes_of_the_policy_itself_has_two_names() -> None:
    assert judging.find("yes:self") == judging.find("self:yes")
