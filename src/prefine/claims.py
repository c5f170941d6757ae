"""Claims: the experiment that shows that a system does what its paper says, run over seeds, written down.

The comparison and its direction are stated beside the recipe (``@claim``) before anything runs. What comes out
goes to ``claims.json`` as it is: a claim that fails is listed as failing.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefine.artifacts import PolicyHandle, Slates
from prefine.catalogue import System, find
from prefine.errors import InputError, PrefineError
from prefine.policies.base import Sampling
from prefine.run import Run
from prefine.store import write_json
from prefine.telling import Progress, Quiet
from prefine.worlds.base import World

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Lab:
    """Where a claim runs: scratch runs that share one store, so arms share what they have in common.

    >>> import tempfile
    >>> Lab(Path(tempfile.mkdtemp())).run("arm-a", seed=3).seed
    3
    """

    root: Path
    progress: Progress | None = None
    worlds: Path | None = None
    """Where base policies are kept; one place for all claims, so each is trained once."""

    def run(self, name: str, seed: int, *, world: World | None = None, **settings: Any) -> Run:
        """A run of its own under a name, sampling as long as the world's answers; ``settings`` are of training."""
        from prefine.engine.settings import TrainSettings

        return Run(
            self.root / f"{name}-{seed}",
            seed=seed,
            settings=TrainSettings.of(settings),
            sampling=None if world is None else Sampling(max_tokens=world.max_tokens),
            progress=self.progress,
        )

    def world(self, name: str) -> World:
        from prefine.worlds import find_world

        return find_world(name)

    def base(self, run: Run, world: World | str) -> PolicyHandle:
        """The world's base policy (trained once per machine)."""
        world = self.world(world) if isinstance(world, str) else world
        return run.policy(world.base(self.worlds or self.root / "worlds"))

    def prompts(self, run: Run, world: World | str, n: int, *, split: str = "train", seed: int | None = None) -> Slates:
        """n prompts of a split."""
        world = self.world(world) if isinstance(world, str) else world
        return run.slates(world.prompts(split, n, run.seed if seed is None else seed))


@dataclass(frozen=True)
class Result:
    """One row of claims.json."""

    system: System
    verdict: str
    figures: Mapping[str, list[float]]
    seeds: Sequence[int]
    seconds: float
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        claim = self.system.claim
        assert claim is not None
        return {
            "number": self.system.number,
            "key": self.system.key,
            "verdict": self.verdict,
            "statement": claim.statement,
            "baseline": claim.baseline,
            "figures": {name: spread(values) for name, values in self.figures.items()},
            "seeds": list(self.seeds),
            "seconds": round(self.seconds, 1),
            "commit": commit(),
            "machine": machine(),
            **({"error": self.error} if self.error else {}),
        }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds, and the values themselves.

    >>> spread([1.0, 3.0])
    {'mean': 2.0, 'std': 1.4142, 'values': [1.0, 3.0]}
    """
    x = np.asarray(values, dtype=float)
    return {
        "mean": round(float(x.mean()), 4),
        "std": round(float(x.std(ddof=1)), 4) if len(x) > 1 else 0.0,
        "values": [round(float(v), 4) for v in x],
    }


def run_claim(
    system: System, root: Path, *, seeds: Sequence[int] | None = None, progress: Progress | None = None
) -> Result:
    """One claim over its seeds. An exception is the verdict "error", with the message."""
    claim = system.claim
    if claim is None:
        raise InputError(f"{system.key} is a building block without a claim", remedy="`prefine systems` lists claims")
    seeds = tuple(claim.seeds if seeds is None else seeds)
    figures: dict[str, list[float]] = {}
    started = time.monotonic()
    try:
        for seed in seeds:
            (progress or Quiet()).say(f"claim {system.key}, seed {seed}")
            for name, value in claim.experiment(Lab(root / system.key, progress, root / "worlds"), seed).items():
                figures.setdefault(name, []).append(float(value))
        arrays = {name: np.asarray(values) for name, values in figures.items()}
        verdict, error = ("holds" if bool(claim.holds(arrays)) else "fails"), ""
    except (PrefineError, ArithmeticError, ValueError, KeyError, RuntimeError, AssertionError) as problem:
        verdict, error = "error", f"{type(problem).__name__}: {problem}"
    return Result(system, verdict, figures, seeds, time.monotonic() - started, error)


def run_claims(
    names: Sequence[str],
    out: Path,
    *,
    root: Path = Path("runs/claims"),
    seeds: Sequence[int] | None = None,
    progress: Progress | None = None,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[dict[str, Any]]:
    """Run claims by name and put their rows into ``out``; rows of other systems there are kept."""
    rows: dict[str, dict[str, Any]] = {}
    if out.exists():
        try:
            rows = {row["key"]: row for row in json.loads(out.read_text())}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("this is not a claims file", remedy="name another with --out", file=out) from error
    for system in [find(name) for name in names]:
        result = run_claim(system, root, seeds=seeds, progress=progress)
        rows[system.key] = result.to_json()
        write_json(out, sorted(rows.values(), key=lambda r: (r["number"] is None, r["number"] or 0, r["key"])))
        tell(result)
    return [rows[find(name).key] for name in names]


def commit() -> str:
    """The commit this code is at, with "+" when the working tree differs."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if head and git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def machine() -> str:
    """Processor count and platform, without the host's name."""
    import os

    import torch

    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


__all__ = ["Lab", "Result", "commit", "machine", "run_claim", "run_claims", "spread"]
