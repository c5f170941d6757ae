"""What verbs take and give: small values that stand for something on disk.

A handle has a ``key`` (what it is) and a ``path`` (where it lies). Slates and contrasts behind a handle are
read line by line when asked for, so memory does not grow with the data.
"""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from prefine.slate import Contrast, Slate

if TYPE_CHECKING:
    from prefine.policies.base import Policy

T = TypeVar("T")


@dataclass(frozen=True)
class Rows(Sequence[T], Generic[T]):
    """A JSONL file as a sequence: an index of line starts in memory, the rows on disk."""

    key: str
    path: Path
    read: Callable[[Mapping[str, Any]], T] = field(compare=False, repr=False)

    @cached_property
    def _starts(self) -> np.ndarray:
        starts = array("q", [0])
        with self.path.open("rb") as handle:
            for line in handle:
                starts.append(starts[-1] + len(line))
        return np.frombuffer(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[T]:
        with self.path.open("rb") as handle:
            for line in handle:
                yield self.read(json.loads(line))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        with self.path.open("rb") as handle:
            handle.seek(int(self._starts[index]))
            return self.read(json.loads(handle.readline()))


class Slates(Rows[Slate]):
    """Slates on disk: prompts, sampled candidates, judged candidates."""


class Contrasts(Rows[Contrast]):
    """Contrasts on disk: what a training verb learns from."""


def slates_at(key: str, folder: Path) -> Slates:
    return Slates(key, folder / "slates.jsonl", Slate.from_json)


def contrasts_at(key: str, folder: Path) -> Contrasts:
    return Contrasts(key, folder / "contrasts.jsonl", Contrast.from_json)


def kind_of_rows(rows: Rows[Any]) -> tuple[str, Callable[[str, Path], Any]]:
    """What the file of such rows is called, and how one is opened."""
    return ("contrasts", contrasts_at) if isinstance(rows, Contrasts) else ("slates", slates_at)


@dataclass(frozen=True)
class Logps(Sequence[list[np.ndarray]]):
    """Token log-probabilities of every member of every contrast under one policy, memory-mapped.

    ``logps[i][m]`` is the array of member m of contrast i, one number a response token, in the
    precision it was computed in (float32 for language models, float64 for tables).
    """

    key: str
    path: Path

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.load(self.path / "values.npy", mmap_mode="r", allow_pickle=False),
            np.load(self.path / "rows.npy", allow_pickle=False),
            np.load(self.path / "contrasts.npy", allow_pickle=False),
        )

    def __len__(self) -> int:
        return len(self._arrays[2]) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        values, rows, contrasts = self._arrays
        if not 0 <= index < len(self):
            raise IndexError(index)
        members = range(int(contrasts[index]), int(contrasts[index + 1]))
        return [np.asarray(values[int(rows[m]) : int(rows[m + 1])]) for m in members]

    @staticmethod
    def write(folder: Path, logps: Sequence[Sequence[np.ndarray]]) -> None:
        """Three plain .npy files: all values end to end, where rows start, where contrasts start."""
        flat = [row for contrast in logps for row in contrast]
        values = np.concatenate(flat) if flat else np.zeros(0)
        np.save(folder / "values.npy", values, allow_pickle=False)
        np.save(folder / "rows.npy", np.cumsum([0] + [len(r) for r in flat]), allow_pickle=False)
        np.save(folder / "contrasts.npy", np.cumsum([0] + [len(c) for c in logps]), allow_pickle=False)

    def sums(self) -> list[list[float]]:
        """Log-probability of every whole response."""
        return [[float(row.sum(dtype=np.float64)) for row in self[i]] for i in range(len(self))]


@dataclass(frozen=True)
class PolicyHandle:
    """A model directory under a key. ``load()`` gives the live policy, from a small cache for reading."""

    key: str
    path: Path
    placement: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Keyword arguments of ``load_policy``: device, dtype."""

    def load(self) -> Policy:
        """The live policy, for scoring and sampling. Do not train this one: others may hold it."""
        if self._place not in _LIVE:
            _LIVE[self._place] = self.fresh()
            while len(_LIVE) > LIVE_POLICIES:
                _LIVE.popitem(last=False)
        _LIVE.move_to_end(self._place)
        _TOUCHED.add(self._place)
        return _LIVE[self._place]

    def release(self) -> None:
        """Keep it in memory no longer (``load`` reads it again)."""
        _LIVE.pop(self._place, None)

    @property
    def _place(self) -> tuple[str, str]:
        return self.key, str(sorted(self.placement.items(), key=str))

    def fresh(self) -> Policy:
        """A copy of its own, to train."""
        from prefine.policies import load_policy
        from prefine.policies.samplers import release

        release()  # another sampling engine may hold the memory that this needs
        return load_policy(self.path, **self.placement)


LIVE_POLICIES = 3
"""How many loaded models are kept: the current one, its reference, a judge."""

_LIVE: OrderedDict[Any, Policy] = OrderedDict()
_TOUCHED: set[Any] = set()


def sweep() -> None:
    """Keep no model loaded that nobody has asked for since the last sweep: past selves of rounds gone by."""
    for place in [place for place in _LIVE if place not in _TOUCHED]:
        del _LIVE[place]
    _TOUCHED.clear()


def forget() -> None:
    """Keep no model loaded (``PolicyHandle.load`` reads it again)."""
    _LIVE.clear()
