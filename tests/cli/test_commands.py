"""Every command answers, helps, and keeps results on stdout and messages on stderr."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from prefine.cli import main

TINY = runpy.run_path(str(Path(__file__).with_name("tiny.py")))

COMMANDS = [
    ["run"], ["demo"], ["systems"], ["show"], ["claim"], ["report"], ["runs"], ["status"], ["worlds"], ["serve"],
    ["data", "check"], ["data", "convert"], ["world", "prompts"], ["world", "base"],
]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that ends well says on stdout."""
    code = main(words)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "Example: prefine" in said(capsys, *words, "--help")


def test_the_list_of_commands_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "--help")
    assert all(words[0] in out for words in COMMANDS)


def test_help_lists_the_options_of_the_system_named(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "run", "dpo", "--help")
    assert "Options of dpo" in out and "--label-smoothing" in out
    assert "Training settings" in out and "--weight-decay" in out
    assert "Sampling settings" in out and "--top-p" in out
    assert "Options of dpo" in said(capsys, "run", "--help", "dpo")
    assert "Options of" not in said(capsys, "run", "--help")


def test_systems_as_a_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(said(capsys, "systems", "--json"))
    assert {"dpo", "sppo"} <= {row["key"] for row in rows}
    sppo = next(row for row in rows if row["key"] == "sppo")
    assert sppo["number"] == 18 and sppo["needs"] == ["policy", "prompts", "preference"]
    family = json.loads(said(capsys, "systems", "--json", "--family", "nash"))
    assert "sppo" in {row["key"] for row in family} and {row["family"] for row in family} == {"nash"}
    assert "sppo" in said(capsys, "systems")


def test_show_says_when_to_use_it_and_shows_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "show", "18")
    assert "018 sppo" in out and "Use it" in out and "def sppo(" in out and "--eta" in out
    assert "def sppo(" not in said(capsys, "show", "sppo", "--no-source")


def test_worlds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "worlds")
    assert "games" in out and "length-biased" in out


def test_prompts_and_base_of_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefine.formats import read_slates
    from prefine.policies import load_policy

    said(capsys, "world", "prompts", "games", "--out", str(tmp_path / "p.jsonl"), "--n", "3")
    assert len(list(read_slates(tmp_path / "p.jsonl"))) == 3
    said(capsys, "world", "base", "games", "--out", str(tmp_path / "base"))
    assert load_policy(tmp_path / "base").kind == "tabular"
    assert {p.name for p in tmp_path.iterdir()} == {"p.jsonl", "base"}


def test_data_is_checked_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TINY["make_data"](tmp_path, 20)
    pairs = str(tmp_path / "pairs.jsonl")
    report = json.loads(said(capsys, "data", "check", pairs, "--json"))
    assert report["ok"] and report["lessons"]["pairs"] == 20
    assert "20" in said(capsys, "data", "check", pairs)
    said(capsys, "data", "convert", pairs, str(tmp_path / "slates.jsonl.gz"), "--to", "slates")
    assert json.loads(said(capsys, "data", "check", str(tmp_path / "slates.jsonl.gz"), "--json"))["slates"] == 20


def test_checking_broken_data_ends_with_2_and_still_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    file = TINY["write"](tmp_path / "d.jsonl", [good, "{broken", good])
    assert main(["data", "check", str(file)]) == 2
    assert "d.jsonl:2" in capsys.readouterr().out.replace("\n", "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version").startswith("prefine 0.")


# --- in a process of its own --------------------------------------------------------------------------------


PREFINE = "import sys; from prefine.cli import main; sys.exit(main())"


def process(*words: str, code: str = PREFINE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)


def test_help_answers_without_importing_anything_heavy() -> None:
    """torch and transformers take seconds; `prefine --help` and usage errors never load them."""
    code = """
import sys
from prefine.cli import main
code = main()
heavy = {"torch", "transformers", "numpy", "pandas", "peft"} & set(sys.modules)
sys.exit(code if not heavy else f"imported {heavy}")
"""
    done = process("--help", code=code)
    assert done.returncode == 0, done.stderr
    assert "prefine" in done.stdout and not done.stderr


def test_exit_code_and_streams_of_a_failure() -> None:
    done = process("run", "no-such-system")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no system 'no-such-system'") and "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in `prefine systems | head -1`."""
    whole = subprocess.run(
        f"{sys.executable} -c '{PREFINE}' systems | head -c 1", shell=True, capture_output=True, text=True
    )
    assert whole.stderr == ""
