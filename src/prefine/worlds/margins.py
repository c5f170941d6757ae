"""Pairs that start wherever one likes: a table of two responses a prompt. For claims about the shape of a pair loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefine.judging.base import Judge, Scored
from prefine.policies.tabular import Tabular
from prefine.slate import Candidate, Slate

BETTER, WORSE = "better", "worse"


@dataclass(frozen=True)
class Margins:
    """A prompt for each margin log pi(better) - log pi(worse) at the start; in the reference all are 0.

    >>> world = Margins((0.5, -0.2))
    >>> [round(float(z), 6) for z in world.of(world.start())], world.of(world.reference()).tolist()
    ([0.5, -0.2], [0.0, 0.0])
    """

    starts: tuple[float, ...]

    def start(self) -> Tabular:
        return self._table(np.asarray(self.starts))

    def reference(self) -> Tabular:
        return self._table(np.zeros(len(self.starts)))

    def saved(self, folder: Path) -> tuple[Path, Path]:
        """Directories of the start and of the reference."""
        paths = folder / "start", folder / "reference"
        for table, path in zip((self.start(), self.reference()), paths, strict=True):
            table.save(path)
        return paths

    def slates(self) -> Iterator[Slate]:
        return (Slate(name, (Candidate(BETTER), Candidate(WORSE)), meta={"id": name}) for name in self._names)

    @property
    def gold(self) -> Judge:
        return Scored(better, "gold")

    @staticmethod
    def of(policy: Tabular) -> np.ndarray:
        """The margins of a policy."""
        logp_PA = policy.logp_PA().detach().numpy()
        return logp_PA[:, 0] - logp_PA[:, 1]

    @property
    def _names(self) -> list[str]:
        return [f"pair {i}" for i in range(len(self.starts))]

    def _table(self, gaps: np.ndarray) -> Tabular:
        return Tabular(self._names, [BETTER, WORSE], np.stack([gaps / 2, -gaps / 2], 1))


def better(slate: Slate) -> list[float]:
    """1 for the better response, 0 for the worse."""
    return [float(c.text == BETTER) for c in slate.candidates]
