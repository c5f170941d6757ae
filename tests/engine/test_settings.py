"""Training settings: what cannot be used is refused when it is given, with a remedy."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from prefine.engine.settings import _CHECKS, TrainSettings
from prefine.errors import InputError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0), ("lr", -1e-5), ("lr", float("nan")), ("lr", "1e-5"), ("lr", None), ("lr", True),
        ("epochs", 0), ("epochs", float("inf")), ("max_steps", 0), ("max_steps", 1.5),
        ("batch_size", 0), ("batch_size", 2.0), ("batch_size", True), ("tokens_per_microbatch", 0),
        ("optimizer", "adamx"), ("optimizer", ["adamw"]), ("betas", (0.9,)), ("betas", (0.9, 1.0)), ("betas", 0.9),
        ("momentum", 1.0), ("weight_decay", -0.1), ("schedule", "step"), ("warmup", 1.0), ("warmup", -0.1),
        ("clip", 0.0), ("precision", "fp8"), ("gradient_checkpointing", "yes"), ("dropout", 0.1),
        ("seed", -1), ("seed", "zero"), ("shuffle", None), ("save_every", 0), ("save_seconds", -1),
        ("log_every", 0), ("max_length", 1), ("max_prompt", 0),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name) as refused:
        TrainSettings.of({name: value})
    assert refused.value.remedy.startswith("give ")


def test_every_setting_is_checked() -> None:
    assert set(_CHECKS) == {f.name for f in fields(TrainSettings)}


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(InputError, match="no training setting 'learning_rate'"):
        TrainSettings.of({"learning_rate": 1e-5})
    with pytest.raises(InputError) as refused:
        TrainSettings.of({"batchsize": 4})
    assert "did you mean batch_size" in refused.value.remedy


def test_a_list_from_yaml_is_as_good_as_a_tuple() -> None:
    assert TrainSettings.of({"betas": [0.9, 0.95]}) == TrainSettings(betas=(0.9, 0.95))


@pytest.mark.parametrize(
    ("settings", "contrasts", "steps"),
    [
        ({"batch_size": 4}, 10, 3),  # the last batch is smaller, not dropped
        ({"batch_size": 4, "epochs": 2}, 10, 6),
        ({"batch_size": 4, "epochs": 0.5}, 10, 2),
        ({"batch_size": 1, "epochs": 0.1 + 0.2}, 10, 3),  # not 4: floats
        ({"batch_size": 64, "epochs": 0.01}, 10, 1),
        ({"batch_size": 4, "epochs": 9, "max_steps": 2}, 10, 2),
    ],
)
def test_steps(settings: dict[str, Any], contrasts: int, steps: int) -> None:
    assert TrainSettings(**settings).steps(contrasts) == steps


def test_the_fingerprint_is_what_the_bits_depend_on() -> None:
    base = TrainSettings()
    assert TrainSettings(save_every=1, save_seconds=None).fingerprint() == base.fingerprint()
    assert TrainSettings(lr=1e-4).fingerprint() != base.fingerprint()
