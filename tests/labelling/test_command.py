"""``prefine label`` as a person and as a script would use it, and a run that is labelled to its end."""

from __future__ import annotations

import io
import json
import os
import pty
import runpy
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefine.cli import main
from prefine.labelling import FOLDER, LabelQueue, pair_question
from prefine.store import read_jsonl

TINY = runpy.run_path(str(Path(__file__).parent.parent / "cli" / "tiny.py"))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    LabelQueue(tmp_path / "run" / FOLDER).ask([pair_question(f"p{i}", "yes", "no") for i in range(5)])
    return tmp_path / "run"


def answer(monkeypatch: pytest.MonkeyPatch, run: Path, lines: str, *more: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return main(["label", str(run), "--as", "eva", *more])


def test_answers_from_a_script(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(monkeypatch, asked, "1\n\n2\ns\n") == 0
    assert "3 answered by eva; 3 of 5 in all, 2 left" in capsys.readouterr().out
    assert answer(monkeypatch, asked, "=\nu\n=\nq\n1\n") == 0, "q stops, whatever comes after it"
    rows = [a.answer for id in LabelQueue(asked / FOLDER).questions() for a in LabelQueue(asked / FOLDER).answers(id)]
    assert rows == ["1", "2", "skip", "="]
    assert answer(monkeypatch, asked, "1\n") == 0
    assert "nothing is left: run the command that asked again" in capsys.readouterr().out


def test_a_line_that_is_no_answer_ends_it_and_keeps_what_came_before(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(monkeypatch, asked, "1\nperhaps\n2\n") == 2
    said = capsys.readouterr().err
    assert "line 2 of stdin: 'perhaps' is no answer" in said and "s skip" in said
    assert LabelQueue(asked / FOLDER).status().given == 1


def test_undo_goes_back_to_the_question(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(monkeypatch, asked, "1\n1\nu\n2\nu\nu\nu\n=\nq\n") == 0
    queue = LabelQueue(asked / FOLDER)
    ids = list(queue.questions())
    assert [a.answer for a in queue.answers(ids[0])] == ["="] and queue.status().given == 1


def test_status_and_export(asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer(monkeypatch, asked, "1\ns\n")
    capsys.readouterr()
    assert main(["label", str(asked), "--status", "--json"]) == 0
    expected = {"asked": 5, "given": 2, "skipped": 1, "left": 3, "by": {"eva": 2}}
    assert json.loads(capsys.readouterr().out) == expected
    out = asked.parent / "labels.jsonl"
    assert main(["label", str(asked), "--export", str(out)]) == 0
    assert main(["data", "check", str(out)]) == 0
    assert main(["label", str(asked), "--export", str(out)]) == 2, "nothing is written over"


@pytest.mark.parametrize("words", [["nowhere"], ["."], [".", "--as", ""]])
def test_bad_directories_and_names(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["label", *words]) == 2


def typed(run: Path, keys: bytes, *, kill: bool = False) -> tuple[int, str]:
    """``prefine label`` in a terminal of its own: keys one by one as it asks, then (perhaps) kill -9."""
    child, fd = pty.fork()
    if child == 0:  # pragma: no cover
        os.environ.update(TERM="xterm", COLUMNS="80")
        os.execv(sys.executable, [sys.executable, "-m", "prefine", "label", str(run), "--as", "eva"])
    seen, deadline = b"", time.monotonic() + 40

    def read() -> bool:
        nonlocal seen
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(fd, 65536) if ready else b""
        except OSError:  # the other end is closed
            data = b""
        seen += data
        return bool(data)

    for n, key in enumerate([*keys, *(() if kill else b"q")]):
        while seen.count(b"question ") <= n and read():
            pass
        os.write(fd, bytes([key]))
    if kill:
        while seen.count(b"question ") <= len(keys) and read():
            pass
        os.kill(child, signal.SIGKILL)
    while read():
        pass
    os.close(fd)
    return os.waitpid(child, 0)[1], seen.decode(errors="replace")


def test_in_a_terminal_one_key_an_answer_and_kill_9_loses_nothing(asked: Path) -> None:
    _, seen = typed(asked, b"1s", kill=True)
    assert "[1]" in seen and "yes" in seen and "s skip" in seen
    assert LabelQueue(asked / FOLDER).status().given == 2
    status, seen = typed(asked, b"=")
    assert status == 0 and "question 1 of 3" in seen
    assert LabelQueue(asked / FOLDER).status().given == 3


def test_ctrl_c_is_an_end_like_any_other(asked: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "prefine", "label", str(asked), "--as", "eva"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heard,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "question 1 of 5\n"
    child.stdin.write("1\n")
    child.stdin.flush()
    assert child.stdout.readline() == "question 2 of 5\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and "stopped" in said
    assert LabelQueue(asked / FOLDER).status().given == 1


def heard() -> None:
    """A shell's background job is born deaf to Ctrl-C, and tests may run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launched(folder: Path, *more: str) -> int:
    words: list[Any] = [
        "run", "iterate", "--model", folder / "model", "--prompts", folder / "prompts.jsonl", "--judge", "people",
        "--rounds=2", "--n=2", "--max-tokens=4", "--threads=1", "--device=cpu", "--lr=1e-2", "--eval-prompts=4",
        "--train-prompts=8", "--out", folder / "run", *more,
    ]  # fmt: skip
    return main([str(word) for word in words])


def test_a_run_that_people_label_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asks, stops with 3, goes on, asks for the next round; ends; starting over asks nothing again."""
    TINY["make_model"](tmp_path / "model")
    TINY["make_data"](tmp_path)
    for round_ in range(2):
        assert launched(tmp_path) == 3
        said = capsys.readouterr().err
        assert f"remedy: prefine label {tmp_path / 'run'}, then run the same command again" in said
        assert main(["status", str(tmp_path / "run")]) == 0
        assert "waiting" in capsys.readouterr().out
        assert main(["report", str(tmp_path / "run")]) == 0
        assert "It waits for people" in (tmp_path / "run" / "report.html").read_text()
        capsys.readouterr()
        assert answer(monkeypatch, tmp_path / "run", "1\n" * 20) == 0
        assert f"{4 * (round_ + 1)} of {4 * (round_ + 1)}" in capsys.readouterr().out
    assert launched(tmp_path) == 0
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "8 labels asked for (8 comparisons)" in capsys.readouterr().out
    judged = [
        e for e in read_jsonl(tmp_path / "run" / "journal.jsonl") if e["verb"] == "judge" and e["event"] == "done"
    ]
    assert [e["figures"]["comparisons"] for e in judged] == [4, 4]
    assert not [e for e in judged if e["role"] == "evaluation"], "people's time is not spent on measuring"
    assert launched(tmp_path, "--fresh", "--epochs=2") in (0, 3)
    assert LabelQueue(tmp_path / "run" / FOLDER).status().given == 8, "answers outlive --fresh"
