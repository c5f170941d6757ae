"""The loop: ask, read, check, train, score, answer. The conversation is all its memory; the best is the argmax."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prefine.discovery.dialogue import ARCHIVE, Conversation, Known, heard, idea_of, opening, worth, wrong
from prefine.discovery.program import NotValid, Proposed
from prefine.discovery.tracing import check, read
from prefine.errors import InputError, RunStopped

Propose = Callable[[Conversation], str]
"""Who proposes: the conversation so far -> a reply."""

Fitness = Callable[[Proposed], float]
"""Train with a loss and say how good what came out is; higher is better."""


@dataclass(frozen=True)
class Attempt:
    """One generation: what was proposed and what became of it. A loss that is not valid has no fitness."""

    reply: str
    loss: Proposed | None
    fitness: float | None
    error: str = ""

    @property
    def figures(self) -> dict[str, float]:
        """For a run's notes."""
        scored = {} if self.fitness is None else {"fitness": self.fitness}
        return {"valid": float(self.fitness is not None), **scored}


def search(
    propose: Propose,
    fitness: Fitness,
    generations: Iterable[int],
    archive: Sequence[Known] = ARCHIVE,
    tell: Callable[[int, Attempt], None] = lambda generation, attempt: None,
) -> tuple[list[Attempt], Conversation]:
    """All attempts, in order, and the whole conversation."""
    conversation, attempts = opening(archive), []
    for generation in generations:
        reply = propose(conversation)
        attempt = _tried(reply, fitness)
        attempts.append(attempt)
        tell(generation, attempt)
        said = wrong(attempt.error) if attempt.fitness is None else worth(attempt.fitness)
        conversation = heard(conversation, reply, said)
    return attempts, conversation


def _tried(reply: str, fitness: Fitness) -> Attempt:
    try:
        loss = check(read(idea_of(reply).code))
    except NotValid as error:
        return Attempt(reply, None, None, str(error))
    try:
        return Attempt(reply, loss, fitness(loss))
    except RunStopped as error:  # it diverged: a proposal's fault, and worth saying
        return Attempt(reply, loss, None, error.message)


def best(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt of highest fitness, the first of equals; None where none was valid."""
    scored = [a for a in attempts if a.fitness is not None]
    return max(scored, key=lambda a: float(a.fitness)) if scored else None  # type: ignore[arg-type]


def winner(attempts: Sequence[Attempt]) -> Proposed:
    """The loss of the best attempt; where none was valid, an InputError that says what was wrong with the last ones."""
    found = best(attempts)
    if found is None or found.loss is None:
        errors = "; ".join(attempt.error for attempt in attempts[-3:])
        raise InputError(f"none of {len(attempts)} proposals was a loss: {errors}", remedy="use another proposer")
    return found.loss
