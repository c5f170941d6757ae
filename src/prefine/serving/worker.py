"""The thread that owns the model: what waits together and wants the same kind of sampling is one batch."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from prefine.policies.base import Sampling
from prefine.slate import Candidate, Prompt


@dataclass
class Job:
    """Prompts that wait for their candidates."""

    prompts: list[Prompt]
    sampling: Sampling
    seeds: list[int]
    done: Future[list[list[Candidate]]] = field(default_factory=Future)


class Worker:
    """One thread that owns the model and answers what waits, like sampling together in one batch."""

    def __init__(self, policy: Any, max_batch: int) -> None:
        self.policy, self.max_batch = policy, max_batch
        self._waiting: queue.SimpleQueue[Job | Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="model").start()

    async def sample(self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]) -> list[list[Candidate]]:
        job = Job(prompts, sampling, seeds)
        self._waiting.put(job)
        return await asyncio.wrap_future(job.done)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Anything else that needs the model."""
        done: Future[Any] = Future()
        self._waiting.put(lambda: settle(done, function) if done.set_running_or_notify_cancel() else None)
        return await asyncio.wrap_future(done)

    def _work(self) -> None:
        while True:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            for other in waiting:
                if not isinstance(other, Job):
                    other()
            # Whoever went away in the meantime is not answered.
            jobs = [one for one in waiting if isinstance(one, Job) and one.done.set_running_or_notify_cancel()]
            while jobs:
                batch = self._alike(jobs)
                jobs = [job for job in jobs if not any(job is one for one in batch)]
                self._answer(batch)

    def _alike(self, jobs: Sequence[Job]) -> list[Job]:
        """The first job and those that can share its batch."""
        batch, rows = [jobs[0]], len(jobs[0].prompts)
        for job in jobs[1:]:
            if job.sampling == jobs[0].sampling and rows + len(job.prompts) <= self.max_batch:
                batch.append(job)
                rows += len(job.prompts)
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        def together() -> list[list[Candidate]]:
            prompts = [prompt for job in batch for prompt in job.prompts]
            return self.policy.sample(prompts, batch[0].sampling, [s for job in batch for s in job.seeds])

        if len(batch) == 1:
            settle(batch[0].done, together)
            return
        shared: Future[list[list[Candidate]]] = Future()
        settle(shared, together)
        if shared.exception() is not None:  # one of them is at fault: let each have its own answer
            for job in batch:
                self._answer([job])
            return
        rows = iter(shared.result())
        for job in batch:
            job.done.set_result([next(rows) for _ in job.prompts])


def settle(done: Future[Any], function: Callable[[], Any]) -> None:
    try:
        result = function()
    except Exception as error:  # whatever it is, it belongs to the one who asked
        done.set_exception(error)
    else:
        done.set_result(result)
