"""What the architecture page promises, held."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefine.catalogue import systems

SOURCE = Path(__file__).parent.parent / "src" / "prefine"
SHARED = [*SOURCE.glob("engine/*.py"), *SOURCE.glob("cli/*.py"), SOURCE / "run.py", SOURCE / "store.py",
          SOURCE / "durable.py", SOURCE / "launch.py", *SOURCE.glob("binding/*.py"), SOURCE / "evaluation.py"]  # fmt: skip
GENERIC = {"iterate", "reward-model", "dice"}  # words of other meanings in running text


@pytest.mark.parametrize("path", SHARED, ids=lambda p: str(p.relative_to(SOURCE)))
def test_shared_code_decides_nothing_by_the_name_of_a_method(path: Path) -> None:
    code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
    code = "\n".join(line.split("  # ")[0] for line in code.splitlines() if not line.lstrip().startswith("#"))
    keys = {s.key for s in systems() if s.number is not None} - GENERIC
    found = [key for key in keys if re.search(rf'["\']{re.escape(key)}["\']', code)]
    assert not found, f"{path.name} names {found}"


@pytest.mark.parametrize("system", systems(), ids=lambda s: s.key)
def test_a_recipe_is_one_short_file_with_its_docstring(system) -> None:  # type: ignore[no-untyped-def]
    import ast
    import inspect

    function = ast.parse(inspect.getsource(system.recipe)).body[0]
    assert isinstance(function, ast.FunctionDef)
    first = function.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1
    lines = (function.end_lineno or 0) - function.lineno + 1 - docstring
    assert lines < 60, f"the recipe of {system.key} has {lines} lines"
    assert system.summary
    assert "use it" in (inspect.getdoc(system.recipe) or "").lower(), "say when to use it"


def test_every_published_system_has_a_claim() -> None:
    assert all(s.claim is not None for s in systems() if s.number is not None)


def test_files_read_in_one_sitting() -> None:
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 620}
    assert not long
