"""What `make` installs: exact, complete, and with no place named that it would have to come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from prefine.catalogue import systems

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")


def pins(name: str) -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "requirements" / name).read_text().splitlines()]
    found = {}
    for line in lines:
        if not line or line.startswith("#") or line == "-r run.txt":
            continue
        match = PIN.fullmatch(line)
        assert match, f"{name}: {line!r} is no exact version"
        found[plain(match.group(1))] = match.group(2)
    return found


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked(group: str | None = None) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] if group is None else project["optional-dependencies"][group]
    return {plain(re.split(r"[<>=!~\[; ]", w)[0]) for w in wanted}


def test_what_the_library_needs_is_pinned() -> None:
    assert asked() | asked("lora") <= set(pins("run.txt"))


@pytest.mark.parametrize("group", ["data", "tensorboard", "serve", "ray", "docs"])
def test_what_the_tests_need_is_pinned(group: str) -> None:
    assert asked(group) <= set(pins("test.txt")) | set(pins("run.txt"))


def test_nothing_is_pinned_twice() -> None:
    assert not set(pins("run.txt")) & set(pins("test.txt"))


@pytest.mark.parametrize("name", ["Makefile", "requirements/run.txt", "requirements/test.txt", ".ci/run"])
def test_no_index_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|index-url|find-links|trusted-host", text)


def test_the_library_itself_asks_for_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [w for w in project["dependencies"] if "==" in w]


def test_the_readme_names_every_system() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [f"{s.number:03d} `{s.key}`" for s in systems() if s.number and f"{s.number:03d} `{s.key}`" not in text]
    assert not missing
