"""Keys change with everything that can change a result, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from prefine.fingerprint import key_of, seed_of, spec
from prefine.objectives import dpo


@dataclass(frozen=True)
class Part:
    size: int
    rate: float = 0.5


def scaled(factor: float):  # type: ignore[no-untyped-def]
    def inner(x: float) -> float:
        return x * factor

    return inner


def test_a_key_depends_on_values_and_not_on_order() -> None:
    assert key_of(a=1, b=[1.0, "x"]) == key_of(b=[1.0, "x"], a=1)
    assert key_of(a=1) != key_of(a=1.0)
    assert key_of(a=True) != key_of(a=1) or spec(True) != spec(1)
    assert key_of(a={"x": 1}) != key_of(a={"x": 2})


def test_parts_are_known_by_their_fields() -> None:
    assert key_of(p=Part(1)) == key_of(p=Part(1, 0.5))
    assert key_of(p=Part(1)) != key_of(p=Part(2))
    assert key_of(o=dpo(0.1)) == key_of(o=dpo(0.1))
    assert key_of(o=dpo(0.1)) != key_of(o=dpo(0.2))


def test_functions_are_known_by_source_and_closure() -> None:
    assert key_of(f=scaled(2.0)) == key_of(f=scaled(2.0))
    assert key_of(f=scaled(2.0)) != key_of(f=scaled(3.0))
    assert key_of(f=lambda x: x) != key_of(f=lambda x: x + 1)


def test_arrays_are_known_by_contents() -> None:
    assert key_of(a=np.ones(3)) == key_of(a=np.ones(3)) != key_of(a=np.zeros(3))
    assert key_of(a=torch.ones(3)) != key_of(a=torch.zeros(3))


def test_artifacts_are_known_by_key() -> None:
    @dataclass(frozen=True)
    class Handle:
        key: str
        path: str

    assert key_of(h=Handle("k", "/here")) == key_of(h=Handle("k", "/there"))


def test_what_has_no_key_is_an_error() -> None:
    with pytest.raises(TypeError, match="cannot make a key"):
        key_of(x=object())


def test_keys_and_seeds_are_the_same_in_another_process() -> None:
    code = "from prefine.fingerprint import *; from prefine.objectives import dpo; print(key_of(o=dpo(0.1)), seed_of('a', 1))"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert said.stdout.split() == [key_of(o=dpo(0.1)), str(seed_of("a", 1))]
