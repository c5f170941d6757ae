"""Numbers summed up while they stream by."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator
from typing import Any

SAMPLE = 20_000


class Numbers:
    """Count, mean, spread and extremes, exact; percentiles exact up to ``SAMPLE`` numbers, then of a sample.

    >>> n = Numbers()
    >>> for x in (1, 2, 3, 4, 10): n.add(x)
    >>> n.summary()["mean"], n.summary()["median"], n.summary()["max"]
    (4.0, 3.0, 10.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0
        self.low = math.inf
        self.high = -math.inf
        self.sample = array("d")
        self.rng = random.Random(0)

    def add(self, x: float) -> None:
        x = float(x)
        # Welford's update: no cancellation, whatever the size of the numbers
        self.count += 1
        step = x - self.mean
        self.mean += step / self.count
        self.squares += step * (x - self.mean)
        self.low, self.high = min(self.low, x), max(self.high, x)
        if len(self.sample) < SAMPLE:
            self.sample.append(x)
        elif (at := self.rng.randrange(self.count)) < SAMPLE:
            self.sample[at] = x

    def summary(self) -> dict[str, float]:
        """n, mean, sd, min, p10, median, p90, max (nothing where no number came by)."""
        if not self.count:
            return {}
        order = sorted(self.sample)

        def at(share: float) -> float:
            return order[min(len(order) - 1, round(share * (len(order) - 1)))]

        spread = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return {
            "n": self.count,
            "mean": self.mean,
            "sd": spread,
            "min": self.low,
            "p10": at(0.1),
            "median": at(0.5),
            "p90": at(0.9),
            "max": self.high,
        }


class Repeats:
    """Finds texts that come again. Keeps 8 bytes a text and 8 for its line, not the text."""

    def __init__(self) -> None:
        self.marks = array("Q")
        self.lines = array("Q")

    def add(self, mark: bytes, line: int) -> None:
        """``mark``: an 8-byte digest."""
        self.marks.append(int.from_bytes(mark, "little"))
        self.lines.append(line)

    def found(self) -> Iterator[tuple[int, int]]:
        """(line, line where the same came first), in the order of the file."""
        import numpy as np

        if not self.marks:
            return
        marks = np.frombuffer(self.marks, dtype=np.uint64)
        _, first, inverse = np.unique(marks, return_index=True, return_inverse=True)
        origin: Any = first[inverse]
        for i in np.flatnonzero(origin != np.arange(len(marks))):
            yield self.lines[int(i)], self.lines[int(origin[i])]
