"""Trackers: where figures go besides the run directory. Each is a small object with ``log`` and ``close``.

TensorBoard, Weights & Biases and trackio are extras; asking for one that is not installed says how to get
it. None of them needs the network: TensorBoard and trackio write files, and Weights & Biases is started in
its offline mode unless the environment says otherwise (its key comes from the environment too).
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from prefine.errors import InputError


class Tracker(Protocol):
    """Takes figures as they come."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files under RUN/tensorboard."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        _module("tensorboard", "tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in finite(figures).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases, offline unless WANDB_MODE says otherwise; `wandb sync` uploads later."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        wandb = _module("wandb", "wandb", "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "prefine"),
            name=run_dir.name,
            dir=str(run_dir),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(finite(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """trackio: a local database that `trackio show` looks at."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        trackio = _module("trackio", "trackio", "trackio")
        self._run = trackio.init(project="prefine", name=run_dir.name, config=dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(finite(figures), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}
"""By the name that ``--track`` takes."""


def trackers_for(names: Iterable[str], run_dir: str | Path, config: Mapping[str, Any]) -> tuple[Tracker, ...]:
    """The trackers of these names, started. An unknown name or a missing package is a clear error."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"there is no tracker {name!r}", remedy=f"name one of {', '.join(TRACKERS)}")
    return tuple(TRACKERS[name](Path(run_dir), config) for name in names)


def finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn: finite numbers."""
    return {
        name: float(value) for name, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _module(module: str, package: str, extra: str) -> Any:
    """Import an extra, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(
            f"tracking to {package} needs the package {package!r}, which is not installed",
            remedy=f"pip install 'prefine[{extra}]', or leave this tracker out",
        ) from None
