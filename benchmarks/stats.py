"""Medians and spreads."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, most and the values themselves.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'least': 1.0, 'most': 3.0, 'values': [3.0, 1.0, 2.0]}
    """
    rounded = [_rounded(v) for v in values]
    return {"median": statistics.median(rounded), "least": min(rounded), "most": max(rounded), "values": rounded}


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """Spread of over[i] / under[i]: what was measured one after the other is compared, so that a machine that
    is slow for a while is slow for both.

    >>> ratios([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])["median"]
    2.0
    """
    return spread([a / b for a, b in zip(over, under, strict=True)])


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
