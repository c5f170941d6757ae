"""From proposed Python to a program: the code runs once, in the sandbox, on tensors that write down operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from prefine.discovery.program import LEAVES, OPERATIONS, NotValid, Proposed, Step, Value
from prefine.sandbox import Bounds, run_python

MARK = "read:"
MOST = 500
ROOM = Bounds(seconds=10.0)
RECORDER = Path(__file__).with_name("recorder.py")
BETA = 0.05

READER = """
import json, types
import torch
import torch.nn as nn
import torch.nn.functional as F

space = {"__name__": "proposal", "torch": torch, "F": F, "nn": nn}
with open("proposal.txt") as file:
    exec(compile(file.read(), "proposal", "exec"), space)
made = [x for x in space.values() if isinstance(x, (types.FunctionType, type)) and x.__module__ == "proposal"]
if len(made) != 1 or not isinstance(made[0], types.FunctionType):
    raise SystemExit(f"the code has to define one function and nothing else; it defines {len(made)} things")
function = made[0]
count = function.__code__.co_argcount
own = [types.SimpleNamespace(beta=%r)] if count == 5 else []
if count not in (4, 5):
    raise SystemExit(f"the function takes {count} arguments, and 4 are given")
found = function(*own, *[torch.Tensor(i) for i in range(4)])
if not isinstance(found, torch.Tensor):
    raise SystemExit(f"the function gives {type(found).__name__}, and a tensor is needed")
print()
print(%r + json.dumps({"name": function.__name__, "steps": torch.STEPS, "output": found.at}))
"""


def read(code: str, *, bounds: Bounds = ROOM) -> Proposed:
    """The loss that a piece of Python defines. NotValid says what is wrong with it.

    The code defines one function of policy chosen, policy rejected, reference chosen and reference rejected
    log-probabilities (after ``self``, if it wants one: ``self.beta`` is 0.05) that gives a vector of losses.
    """
    recorder = RECORDER.read_text().replace("NAMES = frozenset()", f"NAMES = frozenset({sorted(OPERATIONS)!r})", 1)
    outcome = run_python(READER % (BETA, MARK), bounds=bounds, files={"proposal.txt": code, "torch.py": recorder})
    if not outcome.ok:
        said = outcome.stderr.strip().splitlines()
        ended = f"it was stopped: {outcome.killed_by or 'it gave no reason'}"
        raise NotValid(said[-1] if said and outcome.killed_by is None else ended)
    lines = [line for line in outcome.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise NotValid("the function was never called")
    return _program(json.loads(lines[-1].removeprefix(MARK)))


def _program(told: Any) -> Proposed:
    """The program, every part of it checked: nothing that comes out of the sandbox is believed."""
    try:
        steps = []
        for number, (name, arguments, named) in enumerate(told["steps"]):
            if name not in OPERATIONS:
                raise NotValid(f"{name!r} is not among the operations")
            values = tuple(_plain(x, LEAVES + number) for x in arguments)
            more = tuple((str(key), _plain(x, LEAVES + number)) for key, x in sorted(named.items()))
            if name != "tensor" and not any(isinstance(x, Value) for x in values):
                raise NotValid(f"{name} of numbers alone: compute numbers in Python")
            steps.append(Step(str(name), values, more))
            if len(steps) > MOST:
                raise NotValid(f"more than {MOST} operations")
        output = int(told["output"])
        if not 0 <= output < LEAVES + len(steps):
            raise NotValid("the loss is nothing that was computed")
        return Proposed(str(told["name"])[:80], tuple(steps), output)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotValid(f"the loss could not be read: {error}") from None


def _plain(x: Any, known: int) -> Any:
    if isinstance(x, dict):
        at = int(x["at"])
        if not 0 <= at < known:
            raise NotValid("a value is used before it is computed")
        return Value(at)
    if x is None or isinstance(x, bool | int | float):
        return x
    raise NotValid(f"{type(x).__name__} is nothing that a loss can be made of")


def check(proposed: Proposed, size: int = 10, seed: int = 0) -> Proposed:
    """The program itself once it gives ``size`` finite losses with finite gradients on random log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    leaves = [-10 * torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(LEAVES)]
    policy = [leaf.requires_grad_() for leaf in leaves[:2]]
    try:
        loss = proposed.loss(*leaves)
        if tuple(loss.shape) != (size,):
            raise NotValid(f"the loss has the shape {tuple(loss.shape)}, not ({size},): one number a pair")
        if bool(torch.isnan(loss).any()):
            raise NotValid("the loss is not a number on random log-probabilities")
        if not loss.requires_grad:
            raise NotValid("the loss does not depend on the policy")
        gradients = torch.autograd.grad(loss.mean(), policy, allow_unused=True)
    except NotValid:
        raise
    except Exception as error:  # whatever torch says of operations put together wrongly
        raise NotValid(f"{type(error).__name__}: {error}".splitlines()[0]) from None
    if any(g is not None and bool(torch.isnan(g).any()) for g in gradients):
        raise NotValid("the gradient is not a number on random log-probabilities")
    return proposed
