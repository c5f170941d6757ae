"""The examples of the documentation, copied out of it and run: a page that is wrong fails here."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from prefine import catalogue, objectives, worlds
from prefine.cli import app, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "adding-a-method.md")
EVERY_PAGE = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def blocks_in(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: (what stands after the fence, the text)."""
    pieces = re.split(r"^```(.*)$\n?", page.read_text(), flags=re.MULTILINE)
    return [(pieces[i].strip(), pieces[i + 1]) for i in range(1, len(pieces) - 1, 4)]


def files_in(page: Path) -> list[tuple[str, str]]:
    """The code blocks that say which file they are: (path, source)."""
    named = [(re.fullmatch(r'python title="([^"]+)"', head), text) for head, text in blocks_in(page)]
    return [(found.group(1), text) for found, text in named if found]


def commands_in(page: Path) -> list[list[str]]:
    """What a page tells to type after ``prefine``, comments left out."""
    texts = [text for head, text in blocks_in(page) if head in ("", "sh", "bash", "shell", "text", "console")]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("prefine ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, ModuleType]]]:
    """A folder with every example file in it, and the modules they are, known under their own names."""
    folder = tmp_path_factory.mktemp("examples")
    modules = {}
    catalogue.systems()
    before = dict(catalogue._SYSTEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(worlds, "NAMES", (*worlds.NAMES, "manners"))
        for page in PAGES:
            for path, source in files_in(page):
                file = folder / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(source)
                name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
                spec = spec_from_file_location(name, file)
                assert spec is not None and spec.loader is not None
                modules[path] = module_from_spec(spec)
                patch.setitem(sys.modules, name, modules[path])
                spec.loader.exec_module(modules[path])
        factory = modules["src/prefine/objectives/exponential.py"].exponential
        patch.setitem(objectives.FACTORIES, "exponential", factory)  # type: ignore[arg-type]
        yield folder, modules
    catalogue._SYSTEMS.clear()
    catalogue._SYSTEMS.update(before)


Place = tuple[Path, dict[str, ModuleType]]


def test_there_is_an_example_for_every_kind_of_part() -> None:
    there = {path.split("/")[2] for path, _ in files_in(PAGES[0]) if path.startswith("src/")}
    assert {"systems", "objectives", "judging", "worlds"} <= there


def test_the_numbers_in_the_examples_are_right(place: Place) -> None:
    results = {path: doctest.testmod(module) for path, module in place[1].items()}
    assert not [path for path, result in results.items() if result.failed]
    assert sum(result.attempted for result in results.values()) >= 3


def test_the_tests_in_the_examples_pass(place: Place) -> None:
    tests = [f for m in place[1].values() for name, f in vars(m).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_commands_in_the_pages_run(place: Place, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in commands_in(page) if "assistant" not in c]
    assert commands
    for words in commands:
        code = main(words)
        out, err = capsys.readouterr()
        assert code == 0, f"prefine {' '.join(words)}\n{out}\n{err}"


def test_the_example_claim_is_measured(place: Place) -> None:
    main(["claim", "best-of-each", "--seeds", "1", "--out", "one.json"])
    (row,) = json.loads((place[0] / "one.json").read_text())
    assert row["verdict"] in ("holds", "fails") and set(row["figures"]) == {"gain_of_2", "gain_of_8"}


def test_the_quickstart_works_from_python(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = [text for head, text in blocks_in(ROOT / "docs" / "quickstart.md") if head == "python"]
    small = source.replace('"assistant"', '"manners"').replace('"train", 64', '"train", 24')
    assert small != source
    monkeypatch.chdir(place[0])
    exec(compile(small, "quickstart", "exec"), {"__name__": "quickstart"})
    assert (place[0] / "runs" / "by-hand" / "policy" / "config.json").exists()


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda p: p.name)
def test_every_command_in_a_page_exists(page: Path) -> None:
    import typer

    top = typer.main.get_command(app)
    for words in commands_in(page):
        at = top
        for word in words:
            if not hasattr(at, "commands"):
                break
            assert word.startswith("-") or word in at.commands, f"{page.name}: prefine {' '.join(words)}"
            at = at.commands.get(word, at)
