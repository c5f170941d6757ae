"""Live progress: a bar on a terminal, tidy single lines in a log file, nothing when asked to be quiet.

>>> import io
>>> log = io.StringIO()
>>> progress = LogLines(log, clock=iter([0.0, 0.0, 2.0, 2.0]).__next__, now=lambda: "12:00:00")
>>> with progress.stage("train", 120) as stage:
...     stage.end(loss=0.512, tokens_per_second=1840.0)
>>> print(log.getvalue(), end="")
12:00:00  train  done in 2.0 s  1.8k tok/s  loss 0.512
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

SHOWN: Mapping[str, str] = {
    "tokens_per_second": "tok/s", "loss": "loss", "reward": "reward", "margin": "margin", "accuracy": "acc",
    "kl": "KL", "win_rate": "wins", "grad_norm": "|g|", "lr": "lr",
}  # fmt: skip
"""Figures worth a place on the line, in this order, with their short names."""

EVERY = 5.0
"""Seconds between two lines of one stage in a log."""

TRIFLE = 0.05
"""A stage that took less seconds and has no figures is not worth a line."""


class Progress(Protocol):
    """Where progress goes."""

    def stage(self, label: str, total: float | None = None) -> Stage: ...
    def say(self, text: str) -> None: ...


class Show(Protocol):
    """How a stage is shown: what ``Terminal`` and ``LogLines`` differ in."""

    def begun(self, stage: Stage) -> None: ...
    def moved(self, stage: Stage) -> None: ...
    def ended(self, stage: Stage) -> None: ...


@dataclass
class Stage:
    """One stage under way. Use ``update`` as it goes and ``end`` once (or as a context manager)."""

    label: str
    total: float | None
    show: Show
    clock: Callable[[], float]
    done: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    started: float = 0.0
    open: bool = True
    failed: bool = False
    seconds: float = 0.0
    """How long it took, once it is over."""
    first: tuple[float, float] | None = None
    """What was first told, and when: a stage that goes on after a kill does not begin at 0."""

    def update(self, done: float, **figures: float) -> None:
        """So much is done, and these are the latest figures (tokens_per_second, loss, margin, kl, ...)."""
        if self.first is None:
            self.first = (done, self.clock())
        self.done = done
        self.figures.update({name.removeprefix("time/"): value for name, value in figures.items()})
        self.show.moved(self)

    def end(self, **figures: float) -> None:
        """It is over. Saying so twice does nothing."""
        if not self.open:
            return
        self.open = False
        self.figures.update(figures)
        self.seconds = self.clock() - self.started
        self.failed = self.failed or sys.exc_info()[0] is not None  # ended in a `finally`, by an error
        self.show.ended(self)

    @property
    def trifle(self) -> bool:
        """Whether nobody misses it in the log."""
        return self.seconds < TRIFLE and not self.failed and not figures_line(self.figures)

    @property
    def left(self) -> float | None:
        """Seconds to go at the speed so far, once there is a speed."""
        if not self.total or self.first is None or self.done <= self.first[0] or self.done >= self.total:
            return None
        speed = (self.clock() - self.first[1]) / (self.done - self.first[0])
        return speed * (self.total - self.done)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.failed = error is not None
        self.end()


class Silent:
    """No progress at all."""

    def stage(self, label: str, total: float | None = None) -> Stage:
        return Stage(label, total, self, time.monotonic, started=time.monotonic())

    def say(self, text: str) -> None: ...
    def begun(self, stage: Stage) -> None: ...
    def moved(self, stage: Stage) -> None: ...
    def ended(self, stage: Stage) -> None: ...


class LogLines:
    """Single lines for log files: every few seconds while a stage goes on, and when it ends."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], str] = lambda: time.strftime("%H:%M:%S"),
    ) -> None:
        self.stream = stream or sys.stderr
        self.every = every
        self.clock = clock
        self.now = now
        self._last = 0.0

    def stage(self, label: str, total: float | None = None) -> Stage:
        stage = Stage(label, total, self, self.clock, started=self.clock())
        self.begun(stage)
        return stage

    def say(self, text: str) -> None:
        self._line(text)

    def begun(self, stage: Stage) -> None:
        self._last = self.clock()

    def moved(self, stage: Stage) -> None:
        if self.clock() - self._last < self.every:
            return
        self._last = self.clock()
        left = f"left {clock_time(stage.left)}" if stage.left is not None else ""
        self._line("  ".join(x for x in (stage.label, _of(stage), left, figures_line(stage.figures)) if x))

    def ended(self, stage: Stage) -> None:
        if stage.trifle:
            return
        how = "stopped after" if stage.failed else "done in"
        self._line(f"{stage.label}  {how} {stage.seconds:.1f} s  {figures_line(stage.figures)}".rstrip())

    def _line(self, text: str) -> None:
        # One write a line, so that lines of several processes do not mix within themselves.
        self.stream.write(f"{self.now()}  {' '.join(text.splitlines())}\n")
        self.stream.flush()


class Terminal:
    """A bar for what is under way, and a line above it for everything that is over."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars: Bars | None = None
        self._tasks: dict[int, TaskID] = {}

    def stage(self, label: str, total: float | None = None) -> Stage:
        stage = Stage(label, total, self, time.monotonic, started=time.monotonic())
        self.begun(stage)
        return stage

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def begun(self, stage: Stage) -> None:
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("[dim]{task.fields[left]}"),
                TextColumn("{task.fields[figures]}", style="cyan", markup=False),
                console=self.console,
                transient=True,
                refresh_per_second=8,
            )
            self._bars.start()
        self._tasks[id(stage)] = self._bars.add_task(stage.label, total=stage.total, left="", figures="")

    def moved(self, stage: Stage) -> None:
        if self._bars is None or id(stage) not in self._tasks:
            return
        left = f"{clock_time(stage.left)} left" if stage.left is not None else ""
        self._bars.update(
            self._tasks[id(stage)], completed=round(stage.done), left=left, figures=figures_line(stage.figures)
        )

    def ended(self, stage: Stage) -> None:
        task = self._tasks.pop(id(stage), None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)
        if self._bars is not None and not self._tasks:
            self._bars.stop()
            self._bars = None
        if stage.trifle:
            return
        mark = "✗" if stage.failed else "✓"
        line = f"{mark} {stage.label:<44} {stage.seconds:7.1f} s  {figures_line(stage.figures)}"
        self.console.print(line.rstrip(), markup=False, highlight=False, overflow="ellipsis", no_wrap=True)


def live(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """The progress that suits where it goes: bars on a terminal, lines anywhere else."""
    if quiet:
        return Silent()
    stream = stream or sys.stderr
    console = Console(file=stream)
    return Terminal(console) if console.is_terminal and not console.is_dumb_terminal else LogLines(stream)


def figures_line(figures: Mapping[str, Any]) -> str:
    """The figures worth showing, short.

    >>> figures_line({"loss": 0.69314, "tokens_per_second": 12345.0, "win_rate": 0.625, "other": 1.0})
    '12.3k tok/s  loss 0.693  wins 62%'
    """
    known = [(name, figures[name]) for name in SHOWN if isinstance(figures.get(name), int | float)]
    return "  ".join(_FORMATS.get(name, _plain)(SHOWN[name], float(value)) for name, value in known)


def clock_time(seconds: float) -> str:
    """Seconds as people count down.

    >>> clock_time(75), clock_time(4000)
    ('1:15', '1:06:40')
    """
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _of(stage: Stage) -> str:
    if not stage.total:
        return f"{stage.done:.0f}" if stage.done else ""
    share = f"  {100 * stage.done / stage.total:.0f}%" if stage.done else ""
    return f"{stage.done:.0f}/{stage.total:.0f}{share}"


def _plain(name: str, value: float) -> str:
    return f"{name} {value:.3g}"


def _speed(name: str, value: float) -> str:
    return f"{value / 1000:.1f}k {name}" if value >= 1000 else f"{value:.0f} {name}"


def _share(name: str, value: float) -> str:
    return f"{name} {value:.0%}"


_FORMATS: Mapping[str, Callable[[str, float], str]] = {
    "tokens_per_second": _speed,
    "win_rate": _share,
    "accuracy": _share,
}
