"""Checkpoints: whole or not at all, checked when read, the same bits back."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from prefine.engine import checkpoint as module
from prefine.engine.checkpoint import (
    Checkpoint,
    load_optimizer_tensors,
    newest_step,
    optimizer_tensors,
    random_state_kept,
    read_checkpoint,
    save_checkpoint,
    saved_steps,
    seeded,
)


def write(directory: Path, step: int) -> Checkpoint:
    tensors = {
        "policy.w": torch.randn(3, 4, generator=torch.Generator().manual_seed(step)),
        "policy.half": torch.ones(5, dtype=torch.bfloat16) / 3,
        "optimizer.0.step": torch.tensor(float(step)),
    }
    checkpoint = Checkpoint(step, tensors, {"rows": [{"loss": 0.1 + 0.2}]})
    save_checkpoint(directory, checkpoint)
    return checkpoint


def file_of(directory: Path, step: int, name: str) -> Path:
    return directory / "objects" / f"step-{step:08d}" / name


def test_the_same_bits_come_back(tmp_path: Path) -> None:
    wrote = write(tmp_path, 7)
    assert newest_step(tmp_path) == 7
    read = read_checkpoint(tmp_path, 7)
    assert read.tensors.keys() == wrote.tensors.keys()
    for name, tensor in wrote.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor)
    assert read.state == wrote.state


def test_no_checkpoint_is_step_zero(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    assert newest_step(tmp_path / "not there") == 0


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 1000):
        write(tmp_path, step)
    assert saved_steps(tmp_path) == [1000, 100]
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, harm: str) -> None:
    write(tmp_path, 10)
    write(tmp_path, 20)
    file = file_of(tmp_path, 20, name)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if harm == "gone":
        file.unlink()
    else:
        data[middle] ^= 1
        file.write_bytes({"flip": bytes(data), "cut": bytes(data[:middle]), "empty": b""}[harm])
    assert newest_step(tmp_path) == 10
    write(tmp_path, 20)  # made again, it counts again
    assert newest_step(tmp_path) == 20


def test_both_damaged_is_a_fresh_start(tmp_path: Path) -> None:
    for step in (10, 20):
        write(tmp_path, step)
        file_of(tmp_path, step, "state.json").write_text("{")
    assert newest_step(tmp_path) == 0


@pytest.mark.parametrize("where", ["save_file", "Store"])
def test_a_write_that_is_killed_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write(tmp_path, 10)

    def dies(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, where, dies)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, 20)
    assert newest_step(tmp_path) == 10
    write(tmp_path, 20)
    assert newest_step(tmp_path) == 20


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.Adafactor(p, lr=0.1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(make: object, dtype: torch.dtype) -> None:
    def parameters() -> list[torch.nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in ((3, 2), (4,), (1,))]

    def steps(optimizer: torch.optim.Optimizer, these: list[torch.nn.Parameter], numbers: range) -> None:
        for n in numbers:
            for i, p in enumerate(these[:2]):  # the third never gets a gradient, so it has no state
                p.grad = torch.full_like(p, 0.1 * n + i - 0.3)
            optimizer.step()

    straight, broken = parameters(), parameters()
    steps(make(straight), straight, range(6))  # type: ignore[operator]
    first = make(broken)  # type: ignore[operator]
    steps(first, broken, range(3))
    second = make(broken)  # type: ignore[operator]
    load_optimizer_tensors(second, {k: v.clone() for k, v in optimizer_tensors(first).items()})
    steps(second, broken, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight, broken, strict=True))


def test_the_optimisers_state_is_counted_in_the_order_it_is_asked_for() -> None:
    """However an optimiser groups the parameters (whole ones and slices apart), a checkpoint counts them alike."""
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
    one = torch.optim.SGD([a, b], lr=0.1, momentum=0.9)
    a.grad, b.grad = torch.ones(2), torch.full((3,), 2.0)
    one.step()
    other = torch.optim.SGD([{"params": [b]}, {"params": [a]}], lr=0.1, momentum=0.9)
    load_optimizer_tensors(other, optimizer_tensors(one), [a, b])
    assert torch.equal(other.state[b]["momentum_buffer"], torch.full((3,), 2.0))
    assert optimizer_tensors(other, [a, b]).keys() == {"0.momentum_buffer", "1.momentum_buffer"}


def _draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_randomness_is_a_function_of_seed_step_and_process() -> None:
    def after(*numbers: int) -> tuple[float, float, float]:
        seeded(*numbers)
        return _draws()

    with random_state_kept():
        assert after(0, 5, 0) == after(0, 5, 0)
        others = [after(0, 5, 0), after(1, 5, 0), after(0, 6, 0), after(0, 5, 1)]
    for generator in zip(*others, strict=True):
        assert len(set(generator)) == 4


def test_the_random_state_outside_is_kept_even_when_it_breaks() -> None:
    seeded(1)
    wanted = _draws()
    seeded(1)
    with pytest.raises(ValueError, match="broke"), random_state_kept():
        seeded(2)
        _draws()
        raise ValueError("broke")
    assert _draws() == wanted
