"""Several judges as one: a weighted sum of what they say, as it is or on a common scale.

    composite([("facts", judge, 0.7), ("brevity", Length("words", -1), 0.3)], scale="z")

A scale is taken within a slate, over the responses that were scored: the responses to one prompt are what is compared,
and the sum does not depend on which slates are judged together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

from prefine.errors import InputError
from prefine.judging.base import Judge, spoken_by
from prefine.judging.compared import WinRates
from prefine.registry import one_of
from prefine.slate import Feedback, Slate, scores

Columns = Mapping[str, Feedback]
Values = Sequence[float | None]


@dataclass(frozen=True)
class Composite:
    """sum_m weight_m * scale(score_m). A judge that compares is read as its win rates, a label as 0 or 1.

    Where a part abstains, so does the sum; with ``missing="left out"`` it is the mean of the weights that are there,
    times their whole. Columns: NAME, and NAME:PART as each part said it.
    """

    parts: tuple[tuple[str, Judge, float], ...]
    scale: str = "as it is"
    missing: str = "abstain"
    name: str = "score"

    def __post_init__(self) -> None:
        one_of("scale", self.scale, SCALES)
        one_of("missing", self.missing, MISSING)
        names = [name for name, _, _ in self.parts]
        if not names or len(set(names)) < len(names) or not all(weight for _, _, weight in self.parts):
            raise InputError(
                f"a composite of {names} with weights {[weight for _, _, weight in self.parts]}",
                remedy="give one or more judges under different names, none with weight 0",
            )

    def spoken_by(self, policy: Any) -> Composite:
        """For parts that are the policy itself."""
        return replace(self, parts=tuple((name, spoken_by(judge, policy), w) for name, judge, w in self.parts))

    def __call__(self, slates: Sequence[Slate]) -> list[Columns]:
        said = [[score_of(slate, columns) for slate, columns in zip(slates, judge(slates), strict=True)]
                for _, judge, _ in self.parts]  # fmt: skip
        return [self._columns([values[s] for values in said]) for s in range(len(slates))]

    def _columns(self, said: Sequence[Values]) -> Columns:
        scaled = [SCALES[self.scale](values) for values in said]
        weights = [weight for _, _, weight in self.parts]
        total = MISSING[self.missing]
        sums = [total([values[i] for values in scaled], weights) for i in range(len(said[0]))]
        own = {f"{self.name}:{name}": scores(v) for (name, _, _), v in zip(self.parts, said, strict=True)}
        return {self.name: scores(sums), **own}


def score_of(slate: Slate, columns: Columns) -> Values:
    """One number a response from whatever a judge gives: its first score or label, else win rates of its table."""
    for column in columns.values():
        if column.kind in ("score", "label"):
            return [None if v is None else float(v) for v in column.values]
    found = next((column for column in columns.values() if column.kind == "table"), None)
    if found is None:
        raise InputError(
            f"the judge gives {', '.join(columns) or 'nothing'}, no score and no comparison", remedy="use another"
        )
    judged = Slate(slate.prompt, slate.candidates, {"preference": found})
    return WinRates("preference")([judged])[0]["win"].values


def z_scores(values: Values) -> Values:
    """(v - mean) / standard deviation over those that were scored; 0 for all where all are alike.

    >>> z_scores([1.0, None, 3.0])
    [-1.0, None, 1.0]
    """
    known = [v for v in values if v is not None]
    spread = pstdev(known) if known else 0.0
    middle = fmean(known) if known else 0.0
    return [None if v is None else (v - middle) / spread if spread > 0 else 0.0 for v in values]


def ranks(values: Values) -> Values:
    """Share of the others that a response beats, ties as half: 0 the worst, 1 the best, 1/2 when alone.

    >>> ranks([5.0, 1.0, None, 5.0])
    [0.75, 0.0, None, 0.75]
    """
    known = [v for v in values if v is not None]
    others = len(known) - 1

    def rank(v: float) -> float:
        beaten = sum(v > w for w in known) + (sum(v == w for w in known) - 1) / 2
        return beaten / others if others else 0.5

    return [None if v is None else rank(v) for v in values]


SCALES: Mapping[str, Callable[[Values], Values]] = {
    "as it is": lambda values: values, "z": z_scores, "rank": ranks,
}  # fmt: skip
"""How the scores of a slate are made comparable between judges."""


def _all(values: Values, weights: Sequence[float]) -> float | None:
    known = [w * v for w, v in zip(weights, values, strict=True) if v is not None]
    return sum(known) if len(known) == len(weights) else None


def _those_there(values: Values, weights: Sequence[float]) -> float | None:
    there = [(w, v) for w, v in zip(weights, values, strict=True) if v is not None]
    share = sum(abs(w) for w, _ in there)
    return sum(w * v for w, v in there) * sum(map(abs, weights)) / share if there else None


MISSING: Mapping[str, Callable[[Values, Sequence[float]], float | None]] = {
    "abstain": _all, "left out": _those_there,
}  # fmt: skip


def composite(
    parts: Sequence[tuple[str, Judge, float]], scale: str = "as it is", missing: str = "abstain", name: str = "score"
) -> Composite:
    """A weighted sum of judges: (name, judge, weight) of each."""
    return Composite(tuple(parts), scale, missing, name)


def read_composite(text: str, find: Callable[[str], Judge]) -> Composite:
    """From a command line: "1*verifier + 0.2*brevity:words", within "z(...)" or "rank(...)" on a common scale.

    >>> from prefine.judging.names import find
    >>> [(name, weight) for name, _, weight in read_composite("z(1*verifier + -0.2*length:words)", find).parts]
    [('verifier', 1.0), ('length:words', -0.2)]
    """
    scale, body = next(((s, text[len(s) + 1 : -1]) for s in ("z", "rank") if _wraps(s, text)), ("as it is", text))
    parts: list[tuple[str, Judge, float]] = []
    for term in body.split(" + "):
        weight, star, spec = (t.strip() for t in term.partition("*"))
        try:
            factor = float(weight) if star and spec else None
        except ValueError:
            factor = None
        if factor is None:
            raise InputError(
                f"{term.strip()!r} in the composite {text!r} is not WEIGHT*JUDGE",
                remedy='write "composite:1*verifier + 0.2*brevity:words", or z(...), rank(...) around it',
            )
        parts.append((spec, find(spec), factor))
    return composite(parts, scale)


def _wraps(scale: str, text: str) -> bool:
    return text.startswith(f"{scale}(") and text.endswith(")")
