"""The generated documentation: complete, without holes, and linked to pages that exist."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from prefine.catalogue import systems

ROOT = Path(__file__).resolve().parent.parent


def make_pages() -> ModuleType:
    spec = spec_from_file_location("make_pages", ROOT / "docs" / "make_pages.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs") / "pages"
    make_pages().main(target)
    return target


def test_every_page_of_the_menu_is_there(pages: Path) -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"[\w/-]+\.md", yaml.safe_dump(menu))
    assert len(named) > 10
    assert [n for n in named if not (pages / n).is_file()] == []


def test_every_system_has_a_page_with_its_source(pages: Path) -> None:
    listed = (pages / "systems.md").read_text()
    for entry in systems():
        page = (pages / "systems" / f"{entry.key}.md").read_text()
        assert f"prefine run {entry.key}" in page and f"def {entry.recipe.__name__}(" in page
        assert f"systems/{entry.key}.md" in listed


def test_nothing_is_left_to_generate(pages: Path) -> None:
    assert [p.name for p in pages.rglob("*.md") if "<!-- generated" in p.read_text()] == []


def test_links_lead_to_pages_and_pictures_that_exist(pages: Path) -> None:
    broken = []
    for page in pages.rglob("*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not link.startswith("http") and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_a_docstring_keeps_its_equation_and_loses_what_the_table_says() -> None:
    def recipe() -> None:
        """Do it.

        L = -log x_i,  i = 1, 2

        beta: how much.
        """

    text = make_pages().docstring(recipe, verbatim=True, without=["beta"])
    assert text == "Do it.\n\n```text\nL = -log x_i,  i = 1, 2\n```"
