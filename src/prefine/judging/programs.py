"""Unit tests as a judge: the program in a response is run against the tests of its prompt, in the sandbox only.

The prompt's meta holds ``tests``: Python statements (usually asserts) one by one, or one text with all of them; and
perhaps ``setup``, what comes before. Programs that nobody has read see no network, no files and no time to spare
(``prefine.sandbox``), and each test has its own process.
"""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from prefine.registry import positive
from prefine.sandbox import Bounds, run_python
from prefine.slate import Feedback, Slate, scores, texts

Columns = Mapping[str, Feedback]


@dataclass(frozen=True)
class Programs:
    """The share of the tests that pass, -1 for a response without a program; None where the prompt has no tests.

    Columns: NAME, and NAME_why, how the first test that failed ended. A test passes when the program, the setup and
    the test run to their end: a program that ends itself early (``sys.exit(0)``) passes none.
    """

    seconds: float = 5.0
    tests: str = "tests"
    setup: str = "setup"
    name: str = "verified"

    @property
    def reads(self) -> str:
        """What a prompt has to bring."""
        return self.tests

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        return [self._columns(slate) for slate in slates]

    def _columns(self, slate: Slate) -> Columns:
        told = [self._of(slate, i) for i in range(len(slate))]
        return {self.name: scores([t[0] for t in told]), f"{self.name}_why": texts([t[1] for t in told])}

    def _of(self, slate: Slate, index: int) -> tuple[float | None, str | None]:
        tests = unit_tests_of(brought(slate, self.tests))
        if not tests:
            return None, None
        program = program_of(slate.response(index))
        if program is None:
            return -1.0, "no program"
        before = str(brought(slate, self.setup) or "")
        why = [_failure(program, before, test, self.seconds) for test in tests]
        return sum(w is None for w in why) / len(why), next((w for w in why if w is not None), None)


def brought(slate: Slate, name: str) -> object:
    """What a prompt came with under that name, as a field of ours or as a column of its file."""
    return slate.meta.get(name, dict(slate.meta.get("extra") or {}).get(name))


def unit_tests_of(given: object) -> tuple[str, ...]:
    """The tests of a prompt, each a text.

    >>> unit_tests_of("assert f(1) == 2"), unit_tests_of(["assert f(1)", "assert f(2)"]), unit_tests_of(None)
    (('assert f(1) == 2',), ('assert f(1)', 'assert f(2)'), ())
    """
    if isinstance(given, str):
        return (given,) if given.strip() else ()
    return tuple(str(test) for test in given) if isinstance(given, list | tuple) else ()


def program_of(response: str) -> str | None:
    """The program in a response: its last fenced block, else all of it if it reads as Python.

    >>> program_of("So:\\n```python\\nx = 1\\n```"), program_of("x = 1"), program_of("I would rather not.")
    ('x = 1\\n', 'x = 1', None)
    """
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", response, flags=re.DOTALL | re.IGNORECASE)
    if blocks:
        return str(blocks[-1]) if blocks[-1].strip() else None
    try:
        ast.parse(response)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what is nested too deep is no program either
        return None
    return response if response.strip() else None


@lru_cache(maxsize=4096)
def _failure(program: str, setup: str, test: str, seconds: float) -> str | None:
    """How the test failed; None where it passed: where the word that only we know is said after its last line."""
    word = secrets.token_hex(16)
    bounds = Bounds(seconds=seconds, cpu_seconds=max(1, round(seconds)))
    files = {"candidate.txt": f"{program}\n\n{setup}\n\n{test}\n"}
    outcome = run_python(DRIVER, bounds=bounds, files=files, stdin=word + "\n")
    if outcome.ok and outcome.stdout.endswith(word):
        return None
    if outcome.killed_by is not None:
        return f"stopped: {outcome.killed_by}"
    if outcome.ok:
        return "ended before its tests"
    return (outcome.stderr.strip().splitlines() or ["failed"])[-1][:200]


DRIVER = """
import sys

def main():
    word, say = sys.stdin.readline().strip(), sys.stdout.write
    with open("candidate.txt", encoding="utf-8") as file:
        code = compile(file.read(), "candidate.py", "exec")
    exec(code, {"__name__": "__main__"})
    say("\\n" + word)

main()
"""


def programs(seconds: float = 5.0, tests: str = "tests", name: str = "verified") -> Programs:
    """The judge that runs a response's program against its prompt's tests."""
    positive(seconds=seconds)
    return Programs(seconds, tests, name=name)
