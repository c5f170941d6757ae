"""`prefine runs` and `prefine status`: which runs there are and where each stands."""

import json
import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from rich.console import Console

from prefine.errors import InputError
from prefine.report.runs import as_json, runs_table, say_bytes, show_runs, show_status, status_of
from prefine.store import lock

Write = Callable[..., Path]


def shown(renderable: object) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_runs_are_listed_with_what_they_came_to(tmp_path: Path, write_run: Write) -> None:
    write_run(tmp_path / "a", rounds=3)
    write_run(tmp_path / "b", rounds=2, finished=False)
    (tmp_path / "no-run").mkdir()
    (tmp_path / ".store").mkdir()
    rows = {row.name: row for row in runs_table(tmp_path)}
    assert set(rows) == {"a", "b"}
    assert (rows["a"].state, rows["a"].rounds, rows["a"].of_rounds, rows["a"].system) == ("finished", 3, 3, "sppo")
    assert rows["b"].state == "stopped"
    assert rows["a"].figures["win_rate"] == pytest.approx(0.75, abs=0.02)
    assert rows["a"].size > 1000
    text = shown(show_runs(list(rows.values())))
    assert "sppo" in text and "finished" in text and "3/3" in text


def test_a_folder_without_runs(tmp_path: Path) -> None:
    assert runs_table(tmp_path) == []
    assert "no runs here" in shown(show_runs([]))
    with pytest.raises(InputError):
        runs_table(tmp_path / "nowhere")


def test_a_run_interrupted_in_training_says_what_is_left(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", rounds=3, finished=False)
    lines = (run / "journal.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    cut = next(i for i, r in enumerate(rows) if r["verb"] == "train" and r["event"] == "done" and r["round"] == 1)
    (run / "journal.jsonl").write_text("\n".join(lines[:cut]) + "\n")
    status = status_of(run)
    assert (status.state, status.rounds, status.of_rounds) == ("stopped", 1, 3)
    assert status.now == ("train squared win rate",)
    assert "the rest of “train squared win rate”" in status.left and "2 of 3 rounds" in status.left
    assert [row["verb"] for row in status.done][-1] == "logps"
    assert "same command goes on" in shown(show_status(status))


def test_a_finished_run_has_nothing_left(tmp_path: Path, write_run: Write) -> None:
    status = status_of(write_run(tmp_path / "run"))
    assert (status.left, status.holder, status.now) == ("nothing", None, ())
    assert status.cost.trained_tokens == 3 * 61_000


def _hold(directory: str, ready: Event, enough: Event) -> None:
    with lock(Path(directory)):
        ready.set()
        enough.wait(30)


def test_who_holds_a_run_is_said_while_it_does(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", finished=False)
    spawn = multiprocessing.get_context("fork")
    ready, enough = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(str(run), ready, enough))
    process.start()
    try:
        assert ready.wait(30)
        status = status_of(run)
        assert status.state == "running" and f"process {process.pid}" in str(status.holder)
        assert "held by" in shown(show_status(status))
    finally:
        enough.set()
        process.join(30)
    assert status_of(run).state == "stopped"


def test_a_failure_is_told_and_an_interruption_is_none(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run", finished=False)
    journal = (run / "journal.jsonl").read_text()
    for error, state in (("out of memory", "failed"), ("", "stopped")):
        failed = {"time": 2e9, "event": "failed", "verb": "run", "error": error}
        (run / "journal.jsonl").write_text(journal + json.dumps(failed) + "\n")
        assert status_of(run).state == state
        assert status_of(run).failure == error


def test_it_can_be_read_by_programs(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "run")
    status = json.loads(json.dumps(as_json(status_of(run))))
    assert status["state"] == "finished" and status["cost"]["made"] == 15
    assert json.loads(json.dumps(as_json(runs_table(tmp_path)[0])))["name"] == "run"


def test_a_run_started_a_moment_ago_has_a_status(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("system: dpo\n")
    status = status_of(tmp_path / "run")
    assert (status.system, status.state, status.rounds, status.done) == ("dpo", "stopped", 0, ())
    assert "dpo" in shown(show_status(status))


def test_sizes_for_people() -> None:
    assert [say_bytes(n) for n in (12, 1500, 2_500_000)] == ["12 B", "1.5 kB", "2.5 MB"]
