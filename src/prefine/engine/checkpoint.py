"""Training checkpoints: everything a step depends on, written whole or not at all, checked when read.

    DIR/objects/step-00000050/tensors.safetensors     weights, optimiser state, the objective's own weights
                              state.json              step, settings, metrics so far
                              manifest.json           sizes and SHA-256 of the two

The step is the position in the data order and the source of all randomness: the permutation of an epoch
comes from (seed, epoch), and every random generator is set from (seed, step, process) before each step (see
``seeded``). So (seed, step) *is* the random state, exactly, however many processes go on from it.

A checkpoint that is half-written or damaged is never used: the one before it is. No pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from prefine.engine.sharding import slice_like
from prefine.store import Store

KEPT = 2
"""How many checkpoints stay: the newest, and the one to fall back on should that be damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """Where training stands after ``step`` optimiser steps."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write it (beside first, flushed, then one rename) and remove all but the last two."""
    work = directory / "partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in checkpoint.tensors.items()}
    save_file(tensors, work / "tensors.safetensors")
    (work / "state.json").write_text(json.dumps(dict(checkpoint.state)), encoding="utf-8")
    Store(directory).commit(_key(checkpoint.step), work)
    for step in saved_steps(directory)[KEPT:]:
        shutil.rmtree(directory / "objects" / _key(step), ignore_errors=True)


def newest_step(directory: Path) -> int:
    """The step of the newest whole checkpoint, 0 if there is none. Damaged ones are put aside."""
    store = Store(directory)
    return next((step for step in saved_steps(directory) if store.get(_key(step)) is not None), 0)


def read_checkpoint(directory: Path, step: int) -> Checkpoint:
    """The checkpoint that ``newest_step`` found."""
    path = directory / "objects" / _key(step)
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(step, load_file(path / "tensors.safetensors"), state)


def saved_steps(directory: Path) -> list[int]:
    """Steps with a checkpoint, newest first, whole or not."""
    names = [path.name for path in (directory / "objects").glob("step-*")]
    return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)


def _key(step: int) -> str:
    return f"step-{step:08d}"


def optimizer_tensors(optimizer: Optimizer, parameters: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
    """The optimiser's state as named tensors: "3.exp_avg" belongs to the fourth of ``parameters`` (default: of its
    own, in its own order)."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, parameter in enumerate(_counted(optimizer, parameters))
        for name, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], parameters: Sequence[Tensor] | None = None
) -> None:
    """Give the optimiser its state back, bit by bit: what has its parameter's shape, laid out as that is.

    Not ``load_state_dict``: that casts state to the parameters' dtype, which would not be the same bits.
    """
    counted = _counted(optimizer, parameters)
    optimizer.state.clear()
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = counted[int(index)]
        # step counters stay on the CPU, where torch keeps them; all else lives beside its parameter
        there = tensor if name == "step" else _beside(tensor, parameter)
        optimizer.state[parameter][name] = there


def _counted(optimizer: Optimizer, parameters: Sequence[Tensor] | None) -> list[Tensor]:
    return list(parameters or (p for group in optimizer.param_groups for p in group["params"]))


def _beside(tensor: Tensor, parameter: Tensor) -> Tensor:
    return slice_like(tensor, parameter) if tensor.shape == parameter.shape else tensor.to(parameter.device)


def seeded(*numbers: int) -> None:
    """Set torch's, numpy's and python's generators from (seed, step, process)."""
    words = np.random.SeedSequence(numbers).generate_state(4)
    # torch.manual_seed reaches for every kind of device, which takes milliseconds where there is none
    manual_seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    manual_seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(int(words[2]))
    random.seed(int(words[3]))


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the caller its random generators back as they were."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
