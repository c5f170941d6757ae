"""``prefine data check`` names the systems that can use a file, and how."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from prefine.catalogue import systems
from prefine.cli import main

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY["make_data"](tmp_path_factory.mktemp("data"))


def uses(capsys: pytest.CaptureFixture[str], file: Path) -> dict[str, set[str]]:
    code = main(["data", "check", str(file), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return {use: set(keys) for use, keys in json.loads(captured.out)["systems"].items()}


def taking(*inputs: str) -> set[str]:
    """Systems that cannot do without exactly these, besides the policy."""
    return {s.key for s in systems() if {*s.inputs} - {*s.optional} - {"policy"} == {*inputs}}


def test_pairs_name_the_systems_that_learn_from_pairs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = uses(capsys, data / "pairs.jsonl")
    learn = taking("pairs") | taking("labels") | taking("demos") | taking("prompts", "pairs")
    learn |= taking("demos", "pairs") | taking("pairs", "labels")
    assert named["learn from it"] == learn >= {"dpo", "kto", "sft"}
    assert named["answer its prompts, with --judge"] >= taking("prompts", "judge")
    assert named["answer its prompts"] == taking("prompts")


def test_labels_do_not_name_what_needs_pairs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = uses(capsys, data / "labels.jsonl")
    assert named["learn from it"] == taking("labels") | taking("demos")
    assert not any("dpo" in keys for keys in named.values())


def test_a_verifier_needs_answers_in_the_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = taking("prompts", "verifier")
    assert checked and checked == uses(capsys, data / "answers.jsonl")["learn from it, with --judge verifier"]
    assert not any(checked & keys for keys in uses(capsys, data / "prompts.jsonl").values())


def test_the_names_stand_in_the_text_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(data / "labels.jsonl")]) == 0
    assert "systems that learn from it: " in capsys.readouterr().out
