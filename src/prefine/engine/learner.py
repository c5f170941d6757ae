"""What training changes: the weights and the optimiser, with their checkpoints; and how a module is made ready."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prefine.engine import processes, sharding
from prefine.engine.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    newest_step,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
)
from prefine.engine.metrics import Log
from prefine.engine.optim import optimizer_for, parameter_groups, set_learning_rate
from prefine.engine.settings import TrainSettings
from prefine.errors import InputError
from prefine.objectives.scores import Objective


class Learner:
    """The modules in training and their optimiser.

    An objective that is an ``nn.Module``, or has one among its ``parts``, is trained along; its attribute ``lr``
    is the learning rate of its own parameters (the settings' otherwise, times ``lr_factor`` if it has that). The
    modules among an objective's ``readings`` are trained along in the same way. Beside parameters it may have buffers:
    its ``after_step(summed)`` is called once after every optimiser step, with a function that adds numbers up over
    the processes, and ``figures()`` gives numbers for the rows of metrics.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        settings: TrainSettings,
        run: Mapping[str, Any],
        directory: Path | None,
        readings: Mapping[str, nn.Module] | None = None,
        looked_into: bool = False,
    ) -> None:
        self.settings, self.directory = settings, directory
        self.run = {"settings": settings.fingerprint(), **run}
        self.modules = {"policy": module}
        self.beside: Mapping[str, Tensor] = {}
        """Tensors that change with training and are not trained: checkpoints keep them too."""
        processes.same_start(module)
        self.lockstep = None
        if sharding.wanted(
            module, settings.shard, settings.optimizer, follows="following" in run, looked_into=looked_into
        ):
            half = _low_precision(module, settings.precision)
            self.lockstep = sharding.shard(module, lambda: autocast(module, settings.precision), half=half)
        groups = parameter_groups(module.parameters(), settings, settings.lr)
        self.learning = modules_of(objective) | {f"reading.{n}": part for n, part in (readings or {}).items()}
        for name, part in self.learning.items():
            self.modules[name] = part.to(_device(module))
            processes.same_start(part)
            own_lr = float(getattr(part, "lr", settings.lr * getattr(part, "lr_factor", 1.0)))
            groups += parameter_groups(part.parameters(), settings, own_lr)
        if not groups:
            raise InputError(
                "nothing to train: every parameter of the model is frozen",
                remedy="unfreeze the model, or add an adapter (LoRA)",
            )
        self.parameters = [p for group in groups for p in group["params"]]
        """In the order in which checkpoints count them, sharded or not."""
        self.optimizer = optimizer_for([part for group in groups for part in _unmixed(group)], settings)
        self.optimizer.zero_grad()

    def set_learning_rate(self, factor: float) -> None:
        set_learning_rate(self.optimizer, factor)

    def backward(self, loss: Tensor) -> None:
        """The gradients of a micro-batch, added to those that are there."""
        if self.lockstep is None:
            loss.backward()
        else:
            self.lockstep.backward(loss)

    def gradient_norm(self) -> float:
        """Add the gradients of all processes up, clip them, and say how long they were before."""
        if self.lockstep is not None:
            self.lockstep.end()
        processes.sum_gradients([p for p in self.parameters if not sharding.is_sharded(p)])
        if self.lockstep is not None:
            return sharding.clip(self.parameters, self.settings.clip)
        limit = float("inf") if self.settings.clip is None else self.settings.clip
        return float(nn.utils.clip_grad_norm_(self.parameters, limit))

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        for part in self.learning.values():
            after_step: Any = getattr(part, "after_step", None)
            if after_step is not None:
                after_step(processes.summed)

    def figures(self) -> dict[str, float]:
        """What the objective says of itself."""
        found: dict[str, float] = {}
        for part in self.learning.values():
            figures: Any = getattr(part, "figures", None)
            found |= {} if figures is None else figures()
        return found

    def weights(self) -> dict[str, Tensor]:
        """What training can change: trainable parameters, and buffers that are saved with a model."""
        found: dict[str, Tensor] = {}
        for prefix, module in self.modules.items():
            # every name of every parameter, tied ones under all their names: what is left are buffers
            named = {n for n, _ in module.named_parameters(remove_duplicate=False)}
            trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
            buffers = {n: b for n, b in module.state_dict().items() if n not in named}
            found |= {f"{prefix}.{n}": t for n, t in (trainable | buffers).items() if isinstance(t, Tensor)}
        return {**found, **self.beside}

    def save(self, step: int, log: Log, *, alone: bool = False) -> None:
        """A checkpoint after ``step`` steps, written by the first process (none of the start: that is the input).

        All processes save together; ``alone``: the others may not, so what needs them is left undone.
        """
        if self.directory is None or step == 0 or (alone and self.lockstep is not None):
            return
        tensors = self.weights()
        tensors |= {f"optimizer.{n}": t for n, t in optimizer_tensors(self.optimizer, self.parameters).items()}
        if self.lockstep is not None:
            tensors = {n: sharding.whole_on_first(t) for n, t in tensors.items()}
        if processes.rank() == 0:
            save_checkpoint(self.directory, Checkpoint(step, tensors, {"run": self.run, "log": log.state}))

    def restore(self) -> tuple[int, Mapping[str, Any] | None]:
        """(steps done, state of the log) from the newest whole checkpoint of the same run, else (0, None)."""
        if self.directory is None:
            return 0, None
        step = processes.first(newest_step(self.directory) if processes.rank() == 0 else 0)
        if step == 0:
            return 0, None
        checkpoint = read_checkpoint(self.directory, step)
        weights = self.weights()
        optimizer = {n: t for n, t in checkpoint.tensors.items() if n.startswith("optimizer.")}
        if checkpoint.state["run"] != self.run or checkpoint.tensors.keys() - optimizer.keys() != weights.keys():
            return 0, None
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(sharding.slice_like(checkpoint.tensors[name], tensor))
        load_optimizer_tensors(
            self.optimizer, {n.removeprefix("optimizer."): t for n, t in optimizer.items()}, self.parameters
        )
        return step, checkpoint.state["log"]


def modules_of(objective: Objective, name: str = "objective") -> dict[str, nn.Module]:
    """The outermost modules in an objective, which have parameters or state: itself, or parts of a combination."""
    if isinstance(objective, nn.Module):
        inside = [part for part in getattr(objective, "parts", ()) if not isinstance(part, nn.Module)]
        found = {name: objective}
    else:
        inside, found = list(getattr(objective, "parts", ())), {}
    for i, part in enumerate(inside):
        found |= modules_of(part, f"{name}.parts.{i}")
    return found


def save_modules(objective: Objective, out: Path, readings: Mapping[str, Tensor] | None = None) -> None:
    """What was learnt beside the policy, in a file of its own (none where the objective has nothing to learn)."""
    found = {f"{name}.{n}": t for name, part in modules_of(objective).items() for n, t in part.state_dict().items()}
    found |= readings or {}
    if found:
        save_file({n: t.detach().cpu().contiguous() for n, t in found.items()}, out / LEARNT)


LEARNT = "objective.safetensors"


def autocast(module: nn.Module, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The forward's precision: bfloat16 by autocast (weights stay as they are), or as the weights are."""
    return torch.autocast(_device(module).type, dtype=torch.bfloat16, enabled=_low_precision(module, precision))


def _low_precision(module: nn.Module, precision: str) -> bool:
    has_it = _device(module).type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16" or (precision == "auto" and has_it)


def _unmixed(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A parameter group as one of slices and one of whole parameters: optimisers step through like with like."""
    by_kind = ([p for p in group["params"] if sharding.is_sharded(p) is kind] for kind in (True, False))
    return [{**group, "params": params} for params in by_kind if params]


@contextlib.contextmanager
def ready_to_train(module: nn.Module, settings: TrainSettings) -> Iterator[None]:
    """Dropout on only if asked for, gradient checkpointing on if asked for; both off again afterwards, and a module
    that was sharded whole again (not after a failure: the processes may be anywhere then)."""
    checkpointing = settings.gradient_checkpointing
    if checkpointing:
        _switch_checkpointing(module, on=True)
    module.train(settings.dropout)
    quiet = (
        _layers_awake_without_dropout(module) if checkpointing and not settings.dropout else contextlib.nullcontext()
    )
    try:
        with quiet:
            yield
        sharding.gather(module)
    finally:
        module.eval()
        if checkpointing:
            _switch_checkpointing(module, on=False)


def _switch_checkpointing(module: nn.Module, *, on: bool) -> None:
    """transformers calls it activation checkpointing from 5.2x on, gradient checkpointing before."""
    verb = "enable" if on else "disable"
    names = (f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}")
    switch = next((getattr(module, name) for name in names if hasattr(module, name)), None)
    try:
        if switch is None:
            raise ValueError(f"{type(module).__name__} has no gradient checkpointing")
        switch(*([{"use_reentrant": False}] if on else []))
    except ValueError as error:
        raise InputError(str(error), remedy="leave gradient_checkpointing off") from error


@contextlib.contextmanager
def _layers_awake_without_dropout(module: nn.Module) -> Iterator[None]:
    """transformers checkpoints a layer only in training mode, where some layers drop out by themselves.

    So those layers alone go to training mode, with their own dropout rates at 0 meanwhile.
    """
    before: list[tuple[nn.Module, str, float]] = []
    for layer in module.modules():
        if getattr(layer, "gradient_checkpointing", False):
            layer.training = True
            for name, value in vars(layer).items():
                if "dropout" in name and isinstance(value, float):
                    before.append((layer, name, value))
    for layer, name, _ in before:
        setattr(layer, name, 0.0)
    try:
        yield
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
