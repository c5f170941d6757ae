"""Searching for losses: proposals as code, read in the sandbox, trained, scored, answered.

program      Proposed: a loss as a list of tensor operations, an objective; OPERATIONS, what it may be made of
tracing      read: proposed Python, run in the sandbox, as a Proposed; check: the numbers it gives
recorder     what stands for torch in the sandbox: it writes down what is done to the log-probabilities
dialogue     what the proposer is told, and how its replies are read
proposers    who proposes: a model, a script, a random grammar
search       the loop

Nothing that a proposer writes is ever run outside the sandbox: what comes out of it is a list of names of
operations and numbers, and that is what is trained with.
"""

from __future__ import annotations

from prefine.discovery.program import OPERATIONS, NotValid, Proposed
from prefine.discovery.search import Attempt, best, search, winner
from prefine.discovery.tracing import check, read

__all__ = ["OPERATIONS", "Attempt", "NotValid", "Proposed", "best", "check", "read", "search", "winner"]
