"""Unit tests as a judge: what passes, what does not, and programs that would cheat; only in the sandbox."""

from __future__ import annotations

import inspect

import pytest

from prefine import judging
from prefine.errors import InputError
from prefine.judging import programs as module
from prefine.judging.programs import program_of
from prefine.slate import Candidate, Slate

TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]


def told(*responses: str, meta: dict[str, object] | None = None, seconds: float = 5.0):  # type: ignore[no-untyped-def]
    slate = Slate("add", tuple(map(Candidate, responses)), meta={"tests": TESTS} if meta is None else meta)
    return judging.programs(seconds)([slate])[0]


RIGHT = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."


def test_right_wrong_half_and_none() -> None:
    half = "def add(a, b):\n    return 3"
    columns = told(RIGHT, "```\ndef add(a, b): return 7\n```", half, "I cannot.")
    assert columns["verified"].values == (1.0, 0.0, 0.5, -1.0)
    assert columns["verified_why"].values == (None, "AssertionError", "AssertionError", "no program")
    assert next(iter(columns)) == "verified", "what counts comes first"


CHEATS = {
    "ends early": "import sys\nsys.exit(0)",
    "ends at once": "import os\nos._exit(0)",
    "says the word it cannot know": "print('prefine: all tests ran')\nimport os\nos._exit(0)",
    "reads files of others": "open('/etc/passwd').read()\ndef add(a, b): return a + b",
    "never ends": "while True: pass",
    "starts others": "import subprocess\nsubprocess.run(['true'])\ndef add(a, b): return a + b",
}


@pytest.mark.parametrize("case", CHEATS)
def test_what_cheats_passes_nothing(case: str) -> None:
    columns = told(CHEATS[case], seconds=1.0, meta={"tests": TESTS[:1]})
    assert columns["verified"].values == (0.0,), columns["verified_why"].values


def test_setup_and_one_text_of_tests() -> None:
    meta = {"tests": "assert add(one, 2) == 3", "setup": "one = 1"}
    assert told(RIGHT, meta=meta)["verified"].values == (1.0,)


def test_tests_in_a_column_of_the_prompts_file() -> None:
    from prefine.formats.singles import read_prompts

    row = {"prompt": "add", "tests": TESTS, "setup": "pass"}
    slate = Slate("add", (Candidate(RIGHT),), meta=read_prompts(row).meta)
    assert judging.programs()([slate])[0]["verified"].values == (1.0,)


def test_without_tests_it_abstains() -> None:
    assert told(RIGHT, meta={})["verified"].values == (None,)


def test_programs_are_found() -> None:
    assert program_of("```py\na\n```\nbetter:\n```python\nb\n```") == "b\n"
    assert program_of("```python\ncut at the token lim") == "cut at the token lim"
    assert program_of("```python\n```") is None and program_of("") is None


def test_nothing_runs_outside_the_sandbox() -> None:
    before, _, rest = inspect.getsource(module).partition('DRIVER = """')
    outside = before + rest.partition('"""')[2]
    assert not [word for word in ("eval(", "exec(", "subprocess", "os.system", "importlib") if word in outside]


def test_the_name_on_the_command_line() -> None:
    assert judging.find("unit-tests:2").seconds == 2.0  # type: ignore[attr-defined]
    for bad in ("unit-tests:soon", "unit-tests:-1"):
        with pytest.raises(InputError):
            judging.find(bad)
