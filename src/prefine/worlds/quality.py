"""A gold reward that hardly depends on length, for claims about length: the assistant's attributes without brevity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefine.judging.base import Judge
from prefine.slate import Slate


@dataclass(frozen=True)
class Quality:
    """Helpful, truthful and harmless, on average, plus a price a token."""

    attributes: Mapping[str, Judge]
    price: float = 0.0

    def __call__(self, slate: Slate) -> list[float]:
        parts = [self.attributes[name]([slate])[0][name].values for name in ("helpful", "truthful", "harmless")]
        paid = [self.price * len(c.tokens or ()) for c in slate.candidates]
        return [sum(values) / 3 + extra for *values, extra in zip(*parts, paid, strict=True)]
