"""The examples of docs/data-formats.md are what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from prefine.formats import FORMATS
from prefine.formats.lessons import faults
from prefine.formats.spec import detect

PAGE = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text("utf-8")
EXAMPLES = [
    (name, line)
    for name, body in re.findall(r"^### (\S+)\n(.*?)(?=^##)", PAGE, flags=re.S | re.M)
    for block in re.findall(r"```json\n(.*?)```", body, flags=re.S)
    for line in block.splitlines()
]


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_example(name: str, line: str) -> None:
    row = json.loads(line)
    spec = detect(row)
    assert spec is not None and spec.name == name
    slate = spec.read(row)
    assert spec.write(slate) == [row] and faults(slate) == []


def test_every_format_has_one() -> None:
    assert {name for name, _ in EXAMPLES} == FORMATS.keys()
