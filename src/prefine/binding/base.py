"""What a source of inputs is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from prefine.artifacts import PolicyHandle
from prefine.catalogue import System
from prefine.config import Inputs
from prefine.evaluation import Yardstick
from prefine.run import Run


class Source(Protocol):
    """Gives what a recipe asks for by name (``catalogue.INPUTS``). ``check`` runs first, makes nothing and
    says what is missing; everything that takes time happens in the others, inside the run."""

    @property
    def name(self) -> str:
        """For the run's directory: the world, or the model."""
        ...

    def wants(self, name: str) -> bool:
        """Whether a recipe that can go without this input gets it all the same."""
        ...

    def check(self, system: System, names: Sequence[str], options: Mapping[str, Any]) -> Inputs:
        """The inputs in full (defaults filled in), or an InputError about the first that cannot be had."""
        ...

    def settings(self, system: System) -> Mapping[str, Any]:
        """Training and sampling settings and options that suit this source, before the user's own."""
        ...

    def start(self, run: Run) -> PolicyHandle:
        """The policy to start from."""
        ...

    def bind(self, run: Run, name: str, start: PolicyHandle) -> Any:
        """One input."""
        ...

    def yardstick(self, run: Run, start: PolicyHandle) -> Yardstick | None:
        """What the run is measured with."""
        ...
