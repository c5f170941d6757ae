"""Whatever a file holds: slates or one clear error, never anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefine.errors import InputError
from prefine.formats import FORMATS, check, convert, read_for_training, render

WORDS = """
prompt instruction question chosen rejected completion completions response responses candidates labels label
ranks ranked scores score messages conversations role content from value text feedback meta kind values parent
annotations ratings score_chosen score_rejected chosen-rating rejected-rating input output slate answer origin
"""
names = st.sampled_from(WORDS.split())
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars, lambda s: st.lists(s, max_size=3) | st.dictionaries(names, s, max_size=3), max_leaves=8
)
EXAMPLES = [dict(f.example) for f in FORMATS.values()]


@st.composite
def odd_rows(draw: st.DrawFn) -> Any:
    """A good row with something changed at any depth, or nothing like a row at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.dictionaries(names, anything, max_size=4))
    row = json.loads(json.dumps(draw(st.sampled_from(EXAMPLES))))
    here: Any = row
    while isinstance(here, dict | list) and here:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key] or draw(st.booleans()):
            here[key] = draw(anything)
            break
        here = here[key]
    if draw(st.booleans()):
        row[draw(names)] = draw(anything)
    return row


def survives(path: Path) -> None:
    out = path.with_name("out.jsonl")
    for work in (
        lambda: list(read_for_training(path, on_problem="skip")),
        lambda: [list(read_for_training(path, on_problem="skip").lessons(w)) for w in ("pairs", "labels", "demos")],
        lambda: render(check(path)),
        lambda: convert(path, out, to="slates", on_problem="skip", overwrite=True),
        lambda: [convert(path, out, to=to, on_problem="skip", overwrite=True, every_pair=True) for to in FORMATS],
    ):
        try:
            work()
        except InputError as error:
            assert error.remedy


fuzz = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.lists(odd_rows(), min_size=1, max_size=3), st.sampled_from(EXAMPLES))
def test_odd_rows(tmp_path: Path, rows: list[Any], first: dict[str, Any]) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [first, *rows]))
    survives(path)
    path.write_text(json.dumps(rows))
    survives(path)


@fuzz
@given(st.binary(max_size=6), st.integers(0, 200), st.integers(0, 5), st.booleans())
def test_odd_bytes(tmp_path: Path, piece: bytes, at: int, cut: int, array: bool) -> None:
    rows = EXAMPLES[:4]
    content = json.dumps(rows).encode() if array else b"".join(json.dumps(r).encode() + b"\n" for r in rows)
    path = tmp_path / "d.jsonl"
    path.write_bytes(content[:at] + piece + content[at + cut :])
    survives(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_refuses_or_reads_every_odd_row(name: str) -> None:
    spec = FORMATS[name]

    @settings(max_examples=60, deadline=None)
    @given(odd_rows())
    def refuses_or_reads(row: dict[str, Any]) -> None:
        if spec.fits(row):
            try:
                slate = spec.read(row)
            except InputError as error:
                assert error.remedy
            else:
                assert slate.to_json() is not None

    refuses_or_reads()
