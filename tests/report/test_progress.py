"""Live progress: lines in a log, bars on a terminal, and the same calls for both."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from prefine.report.progress import LogLines, Silent, Terminal, figures_line, live


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


def log_lines(clock: Clock) -> tuple[LogLines, io.StringIO]:
    stream = io.StringIO()
    return LogLines(stream, every=5.0, clock=clock, now=lambda: "12:00:00"), stream


def test_a_log_gets_a_line_every_few_seconds_and_when_a_stage_ends(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    stage = progress.stage("round 1: train", 100)
    for step in range(1, 101):
        clock.now += 0.25
        stage.update(step, loss=1.0 / step, tokens_per_second=1500.0)
    stage.end()
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("12:00:00  round 1: train  done in 25.0 s")
    assert len(lines) == 5 + 1  # 25 s, one every 5 s, and the end
    assert all(line.startswith("12:00:00  ") and "\r" not in line and "\x1b" not in line for line in lines)


def test_a_line_says_how_far_how_fast_and_how_long_still(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    stage = progress.stage("train", 100)
    stage.update(0)
    clock.now = 30.0
    stage.update(25, **{"time/tokens_per_second": 2345.0}, reward=0.41, margin=1.234, kl=3.2, win_rate=0.61)
    line = stream.getvalue().splitlines()[-1]
    assert "25/100  25%" in line and "left 1:30" in line  # a quarter took 30 s
    assert "2.3k tok/s" in line and "margin 1.23" in line and "KL 3.2" in line and "wins 61%" in line


def test_a_stage_that_goes_on_after_a_kill_does_not_count_what_was_done_before(clock: Clock) -> None:
    progress, _ = log_lines(clock)
    stage = progress.stage("train", 100)
    stage.update(80)
    clock.now = 10.0
    stage.update(90)
    assert stage.left == pytest.approx(10.0)


def test_time_left_is_unknown_without_speed_or_total(clock: Clock) -> None:
    progress, _ = log_lines(clock)
    assert progress.stage("a", None).left is None
    assert progress.stage("b", 10).left is None


def test_messages_stay_on_one_line(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    progress.say("artifact damaged\nmade again")
    assert stream.getvalue() == "12:00:00  artifact damaged made again\n"


def test_an_error_shows_as_stopped(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    with pytest.raises(RuntimeError), progress.stage("train", 10):
        raise RuntimeError("no")
    assert "stopped after" in stream.getvalue()


def test_a_stage_ended_in_a_finally_knows_that_it_failed(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    stage = progress.stage("train", 10)
    with pytest.raises(MemoryError):
        try:
            raise MemoryError
        finally:
            stage.end()
    assert "stopped after" in stream.getvalue()


def test_trifles_leave_no_line(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    progress.stage("part 1 of 3").end()
    assert stream.getvalue() == ""


def test_ending_twice_says_it_once(clock: Clock) -> None:
    progress, stream = log_lines(clock)
    with progress.stage("train", 10) as stage:
        clock.now = 1.0
        stage.end(loss=0.5)
    assert stream.getvalue().count("done in") == 1


def test_a_terminal_shows_a_bar_and_leaves_one_line_a_stage() -> None:
    stream = io.StringIO()
    progress = Terminal(Console(file=stream, force_terminal=True, width=100))
    with progress.stage("round 1: train [b]", 10) as stage:
        stage.update(5, loss=0.25)
        progress.say("[not markup]")
    out = stream.getvalue()
    assert "✓ round 1: train [b]" in out and "loss 0.25" in out and "[not markup]" in out
    assert progress._bars is None  # the live display is gone, so the terminal is as it was


def test_a_terminal_is_left_clean_after_an_error() -> None:
    stream = io.StringIO()
    progress = Terminal(Console(file=stream, force_terminal=True, width=100))
    with pytest.raises(KeyboardInterrupt), progress.stage("train", 10):
        raise KeyboardInterrupt
    assert "✗ train" in stream.getvalue() and progress._bars is None


def test_it_suits_where_it_goes() -> None:
    assert isinstance(live(io.StringIO()), LogLines)
    assert isinstance(live(quiet=True), Silent)


def test_silence_takes_the_same_calls(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Silent()
    with progress.stage("train", 3) as stage:
        stage.update(1, loss=1.0)
        progress.say("hello")
        stage.end(loss=0.5)
    assert capsys.readouterr() == ("", "")


def test_figures_that_are_not_numbers_are_left_out() -> None:
    assert figures_line({"loss": None, "reward": "x", "kl": 1.0}) == "KL 1"
