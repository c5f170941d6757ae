"""The catalogue's vocabulary: two surveys' taxonomies, declared by every system and answered by ``prefine systems``."""

from __future__ import annotations

import json

import pytest

from prefine import facets
from prefine.catalogue import find, system, systems
from prefine.cli import main
from prefine.errors import InputError


def test_every_published_system_answers_one_question() -> None:
    assert not facets.untagged((s.key, s.facets) for s in systems() if s.number is not None)


def test_no_question_of_the_six_is_without_a_system() -> None:
    covered = facets.coverage((s.key, s.facets) for s in systems())
    assert all(covered[name] for name in list(facets.FACETS["question"].values)[:6])


def test_what_is_not_in_the_vocabulary_is_an_error_at_import() -> None:
    for wrong in ({"questoin": "online"}, {"data": "noisy"}, {"question": "online, feedback"}):
        with pytest.raises(InputError):
            system(None, "nothing", "", family="", **wrong)(lambda run: None)
    assert "nothing" not in {s.key for s in systems()}


def test_all_defaults_together_are_dpo() -> None:
    assert facets.filled(find("dpo").facets) == {**facets.filled({}), "question": ("implicit-reward",)}


def test_a_component_has_a_default_among_its_values() -> None:
    for name, facet in facets.FACETS.items():
        assert name == "question" or facet.default in facet.values
        assert facet.component in (*facets.COMPONENTS, "question")


def rows(capsys: pytest.CaptureFixture[str], *flags: str) -> set[str]:
    assert main(["systems", *flags, "--json"]) == 0
    return {row["key"] for row in json.loads(capsys.readouterr().out)}


def test_the_command_finds_by_facet(capsys: pytest.CaptureFixture[str]) -> None:
    noisy = rows(capsys, "--data", "noisy-pairs")
    assert {"rdpo", "lcpo"} <= noisy and "dpo" not in noisy
    assert {"simpo", "orpo"} <= rows(capsys, "--reference", "none") and "dpo" not in rows(capsys, "--reference=none")
    either = rows(capsys, "--data", "noisy-pairs,labels")
    assert noisy < either and "kto" in either
    assert rows(capsys, "--data", "labels", "--family", "nash") == set()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--data", "nosy-pairs"), "noisy-pairs"),
        (("--referense", "none"), "reference"),
        (("simpo",), "--reference none"),
    ],
)
def test_the_command_says_what_there_is(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str) -> None:
    assert main(["systems", *flags]) == 2
    assert said in capsys.readouterr().err
