"""Parts on Ray actors: each worker has one part at a time, and a part that lost its worker goes to another."""

from __future__ import annotations

import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from prefine.cluster import Part, Task
from prefine.cluster.calls import LOSSES, Lost, Site, kill, need_ray, result, ship
from prefine.cluster.room import Shape
from prefine.cluster.worker import Worker
from prefine.errors import RunStopped

T = TypeVar("T")

NOTICE, GIVE_UP = 30.0, 900.0
"""Seconds without any worker until that is said, and until the run stops."""


@dataclass(frozen=True, eq=False)
class Hand:
    """A worker that is ready."""

    actor: Any
    host: str


class Pool:
    """Workers, hired as there are parts for them and kept with what they have loaded until dismissed."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.idle: list[Hand] = []
        self.busy: dict[Any, tuple[Hand, Part]] = {}
        """By the call that they work on."""
        self.starting: dict[Any, Any] = {}
        self.failed_starts = 0

    def map(self, task: Task[T], parts: Iterable[Part]) -> Iterator[tuple[int, T]]:
        """See ``Cluster.map``. No more parts are read ahead than there are workers."""
        name, held = uuid.uuid4().hex, [ship(task, _named(task))]
        room, more, waiting = self.site.room(), iter(parts), deque[Part]()
        lost: Counter[int] = Counter()
        heard = time.monotonic()
        try:
            while True:
                while len(waiting) < room.workers and (part := next(more, None)) is not None:
                    waiting.append(part)
                if not waiting and not self.busy:
                    return
                while self.idle and waiting:
                    hand, part = self.idle.pop(), waiting.popleft()
                    self.busy[hand.actor.do.remote(name, held, part[1], part[0])] = (hand, part)
                for _ in range(min(len(waiting), room.workers - len(self.busy)) - len(self.starting)):
                    self._hire(room)
                ready = self._wait(heard)
                heard = time.monotonic() if ready or self.busy else heard
                for ref in ready:
                    if ref in self.starting:
                        self._started(ref)
                        continue
                    hand, part = self.busy.pop(ref)
                    try:
                        done, notes = result(ref)
                    except Lost as error:
                        lost[part[0]] += 1
                        self._lost(hand, part, lost[part[0]], error)
                        waiting.appendleft(part)
                        continue
                    except BaseException:
                        self.idle.append(hand)
                        raise
                    self.idle.append(hand)
                    for note in notes:
                        warnings.warn(note, stacklevel=2)
                    yield part[0], done
        finally:
            for hand, _ in self.busy.values():  # an error or an interrupt: what they do is of no use
                kill(hand.actor)
            self.busy = {}

    def dismiss(self) -> None:
        """Give back the place that workers hold."""
        hands = [*self.idle, *(hand for hand, _ in self.busy.values())]
        for actor in [*(hand.actor for hand in hands), *self.starting.values()]:
            kill(actor)
        self.idle, self.busy, self.starting = [], {}, {}

    def _hire(self, room: Shape) -> None:
        """Ask for one more worker."""
        wanted = {"num_cpus": room.threads, "num_gpus": int(room.gpu), "scheduling_strategy": "SPREAD"}
        actor = need_ray().remote(Worker).options(**wanted).remote()
        self.starting[actor.ready.remote(self.site.setup(room))] = actor

    def _started(self, ref: Any) -> None:
        actor = self.starting.pop(ref)
        try:
            host = result(ref)
        except Lost as error:
            self.failed_starts += 1
            if self.failed_starts >= LOSSES:
                raise RunStopped(
                    f"{LOSSES} workers ended before they were ready: {error}",
                    remedy="see in Ray's logs why, then run the same command again",
                ) from error
            return
        except BaseException:
            kill(actor)
            raise
        self.failed_starts = 0
        self.idle.append(Hand(actor, host))

    def _wait(self, heard: float) -> list[Any]:
        """What is ready of what is under way; with a word when there is no worker for long."""
        ready, _ = need_ray().wait([*self.busy, *self.starting], num_returns=1, timeout=1.0)
        silent = 0.0 if ready or self.busy else time.monotonic() - heard
        if silent > GIVE_UP:
            raise RunStopped(
                f"the cluster gave no worker in {silent / 60:.0f} minutes",
                remedy="see with `ray status` what else holds its CPUs and GPUs; then run the same command again",
            )
        if NOTICE < silent < NOTICE + 1:
            self.site.say("waiting for room on the cluster (`ray status` shows what holds it)")
        return list(ready)

    def _lost(self, hand: Hand, part: Part, times: int, error: Lost) -> None:
        kill(hand.actor)  # it may only be out of reach, and would go on
        where = f"rows {part[0] + 1} to {part[0] + len(part[1])}"
        if times >= LOSSES:
            raise RunStopped(
                f"{where} lost their worker {times} times, last on {hand.host}: {error}",
                remedy="most often memory ran out: give workers more of it (fewer --workers), or see Ray's logs; "
                "then run the same command again: it goes on where it stopped",
            ) from error
        self.site.say(f"a worker on {hand.host} was lost; {where} are done again")


def _named(task: Any) -> str:
    """What a task is called in messages: the judge it asks, or its own name."""
    part = getattr(task, "judge", task)
    return str(getattr(part, "__name__", None) or type(part).__name__)
