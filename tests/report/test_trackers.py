"""Trackers: started by name, fed with figures, clear when missing."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefine.errors import InputError
from prefine.report.trackers import TRACKERS, finite, trackers_for


def test_tensorboard_gets_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers_for(["tensorboard"], tmp_path, {"system": "dpo"})
    for step in range(3):
        tracker.log(step, {"loss": 1.0 / (step + 1), "broken": float("nan")})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert "broken" not in events.Tags()["scalars"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_said_with_what_to_install(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        trackers_for([name], tmp_path, {})
    assert name in str(error.value) and f"prefine[{name}]" in error.value.remedy


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_they_are_fed_alike_and_need_no_network(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {"logged": []}
    run = SimpleNamespace(
        log=lambda figures, step: seen["logged"].append((step, figures)), finish=lambda: seen.update(ended=True)
    )

    def init(**how: Any) -> Any:
        seen["how"] = how
        return run

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    (tracker,) = trackers_for([name], tmp_path / "my-run", {"seed": 1})
    tracker.log(4, {"loss": 0.5, "kl": float("inf")})
    tracker.close()
    assert seen["logged"] == [(4, {"loss": 0.5})] and seen["ended"]
    assert seen["how"]["name"] == "my-run" and seen["how"]["config"] == {"seed": 1}
    assert seen["how"].get("mode", "offline") == "offline"


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        trackers_for(["mlflow"], tmp_path, {})
    assert all(name in error.value.remedy for name in TRACKERS)


def test_nothing_asked_for_is_nothing(tmp_path: Path) -> None:
    assert trackers_for([], tmp_path, {}) == ()


def test_only_finite_numbers_are_drawn() -> None:
    assert finite({"a": 1, "b": float("nan"), "c": "x", "d": None}) == {"a": 1.0}
